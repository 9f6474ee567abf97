"""Statistics on disk: one safetensors file, with the settings they were taken under and how far they got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

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


def load_statistics(file: Path) -> StoredStatistics:
    """Read statistics back, bit for bit.

    Raises:
        CheckpointError: the file is missing, truncated, or no statistics.
    """
    if not file.is_file():
        raise CheckpointError(f"there are no statistics at {file}; run `slimdiff-fx calibrate` first")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
        record = json.loads(metadata[_RECORD])
        done, total = int(record["done"]), int(record["total"])
        return StoredStatistics(Statistics.from_tensors(tensors), dict(record["settings"]), done, total)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, SlimDiffError) as error:
        raise CheckpointError(f"{file} is truncated or no statistics file ({error}); calibrate again") from error
