"""Statistics on disk: one safetensors file, with the settings they were taken under and how far they got.

Two digests lie in it: one of the tensors, and one of the record together with that. So a changed bit is an error, and
the record alone can be trusted without reading gigabytes of sums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from passes.calibrate.statistics import Statistics
from passes.errors import CheckpointError, SlimDiffError
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.output_paths import expand, follow
from slimdiff_fx.files.own_files import RECORD, STATISTICS, refuse_foreign_file


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics with their record.

    Attributes:
        statistics: the sums.
        settings: JSON object; what decides the sums: prompts, seed, steps, batch, versions, ...
        done: samples finished.
        total: samples asked for; `done` equals it when calibration is complete.
    """

    statistics: Statistics
    settings: Mapping[str, Any]
    done: int
    total: int


def save_statistics(stored: StoredStatistics, file: Path) -> None:
    """Write statistics so that the file is whole or as it was before.

    Args:
        stored: what to write.
        file: where to; `~` is expanded. Other statistics there are replaced.

    Raises:
        OutputError: something else is there.
        CheckpointError: the file can't be written.
    """
    place = follow(file)
    refuse_foreign_file(place, STATISTICS)
    tensors = stored.statistics.to_tensors()
    record = {"settings": stored.settings, "done": stored.done, "total": stored.total, "tensors": _digest(tensors)}
    # One entry: safetensors writes several in no fixed order, and equal statistics shall be equal files.
    metadata = {RECORD: json.dumps({**record, "record": _record_digest(record)})}
    with replaced_file(place) as partial:
        save_file(tensors, partial, metadata)


@dataclass(frozen=True)
class Record:
    """What a statistics file says about its sums; see `StoredStatistics`."""

    settings: Mapping[str, Any]
    done: int
    total: int


def load_record(file: Path) -> Record:
    """Read the record alone: the sums can be gigabytes.

    Raises:
        CheckpointError: the file is missing, truncated, or no statistics; or its record was changed.
    """
    return _load(file, tensors=False)[0]


def load_statistics(file: Path) -> StoredStatistics:
    """Read statistics back, bit for bit.

    Raises:
        CheckpointError: the file is missing, truncated, or no statistics; or anything in it was changed.
    """
    record, tensors = _load(file, tensors=True)
    try:
        return StoredStatistics(Statistics.from_tensors(tensors), record.settings, record.done, record.total)
    except (KeyError, TypeError, ValueError, SlimDiffError) as error:
        raise _damaged(file, error) from error


def _load(file: Path, *, tensors: bool) -> tuple[Record, dict[str, Tensor]]:
    file = expand(file)
    if not file.is_file():
        raise CheckpointError(f"there are no statistics at {file}; run `slimdiff-fx calibrate` first")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            keys = opened.keys() if tensors else ()
            values = {key: opened.get_tensor(key) for key in keys}
        record = dict(json.loads(metadata[RECORD]))
        found = Record(dict(record["settings"]), int(record["done"]), int(record["total"]))
        digests = record.get("tensors"), record.pop("record", None)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if digests == (None, None):
        raise CheckpointError(
            f"{file} was written by an earlier version, with no checksum, so that nobody knows whether it is still "
            "what was written; calibrate again"
        )
    if digests[1] != _record_digest(record) or (tensors and digests[0] != _digest(values)):
        raise CheckpointError(f"{file} is not what was written (its checksum differs); calibrate again")
    return found, values


def _record_digest(record: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(record))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest names, types, shapes and bytes, with no second copy of what may be gigabytes."""
    found = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        found.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is truncated or no statistics file ({error}); calibrate again")
