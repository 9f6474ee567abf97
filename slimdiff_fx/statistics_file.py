"""Statistics on disk: one safetensors file, with the settings they were taken under and how far they got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from passes.errors import CheckpointError, SlimDiffError
from passes.statistics import Statistics
from slimdiff_fx.atomic_write import replaced_file

_RECORD = "calibration"


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

    Raises:
        CheckpointError: the file can't be written.
    """
    # One entry: safetensors writes several in no fixed order, and equal statistics shall be equal files.
    record = {"settings": stored.settings, "done": stored.done, "total": stored.total}
    metadata = {_RECORD: json.dumps(record)}
    with replaced_file(file) as partial:
        save_file(stored.statistics.to_tensors(), partial, metadata)


@dataclass(frozen=True)
class Record:
    """What a statistics file says about its sums; see `StoredStatistics`."""

    settings: Mapping[str, Any]
    done: int
    total: int


def load_record(file: Path) -> Record:
    """Read the record alone: the sums can be gigabytes.

    Raises:
        CheckpointError: the file is missing, truncated, or no statistics.
    """
    return _load(file, tensors=False)[0]


def load_statistics(file: Path) -> StoredStatistics:
    """Read statistics back, bit for bit.

    Raises:
        CheckpointError: the file is missing, truncated, or no statistics.
    """
    record, tensors = _load(file, tensors=True)
    try:
        return StoredStatistics(Statistics.from_tensors(tensors), record.settings, record.done, record.total)
    except (KeyError, TypeError, ValueError, SlimDiffError) as error:
        raise _damaged(file, error) from error


def _load(file: Path, *, tensors: bool) -> tuple[Record, dict[str, Tensor]]:
    if not file.is_file():
        raise CheckpointError(f"there are no statistics at {file}; run `slimdiff-fx calibrate` first")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            keys = opened.keys() if tensors else ()
            values = {key: opened.get_tensor(key) for key in keys}
        record = json.loads(metadata[_RECORD])
        return Record(dict(record["settings"]), int(record["done"]), int(record["total"])), values
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is truncated or no statistics file ({error}); calibrate again")
