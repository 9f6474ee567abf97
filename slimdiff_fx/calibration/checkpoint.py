"""The state of a calibration on disk: where it is, whose it is, and whether a run may go on from it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from passes.calibrate.instrument import Instrumented
from passes.errors import CalibrationError, CheckpointError, ResumeError
from slimdiff_fx.calibration.rank_sums import gather
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.files.output_paths import check_file_place
from slimdiff_fx.files.own_files import STATISTICS, is_own_file, refuse_foreign_file
from slimdiff_fx.files.partial_files import is_partial, place_of_partial, remove_leftovers
from slimdiff_fx.files.statistics_file import load_record, load_statistics

_RANK = re.compile(r"\.rank(\d+)of(\d+)$")


def own_checkpoint(checkpoint: Path, ranks: Ranks = ALONE) -> Path:
    """Name a rank's own checkpoint: it says whose it is and of how many."""
    return _named(checkpoint, f".rank{ranks.rank}of{ranks.world}") if ranks.several else checkpoint


def find_checkpoint(checkpoint: Path, ranks: Ranks = ALONE) -> bool:
    """Tell whether there is something to resume from; all ranks have to call this, and get the same answer.

    A rank that was lost before it had written anything starts anew. So one rank's checkpoint is enough. Where there is
    none all start anew: whoever is started again and again by a job scheduler gives --resume from the first time on.

    Raises:
        CheckpointError: there are checkpoints of another number of ranks.
    """
    found = own_checkpoint(checkpoint, ranks).is_file()
    if ranks.several:
        found = any(each == b"found" for each in gather(b"found" if found else b"missing"))
    if found:
        return True
    worlds = sorted(_worlds(checkpoint).values())
    if worlds:
        raise CheckpointError(
            f"the checkpoints of {checkpoint} were written by {_processes(worlds[0])}, and this run has {ranks.world}; "
            "start as many as before, or start anew without `resume`"
        )
    return False


class Resumable(KeyboardInterrupt):
    """Ctrl-C behind a checkpoint, from which the same command with --resume goes on."""


@contextmanager
def resumable(checkpoint: Path, *, resume: bool) -> Iterator[None]:
    """Say of an interruption whether it can be resumed; what an earlier run left can't, unless this one resumed it.

    Raises:
        Resumable: in place of KeyboardInterrupt.
    """
    before = _written(checkpoint)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        after = _written(checkpoint)
        if after and (resume or any(before.get(file) != state for file, state in after.items())):
            raise Resumable("; the same command with `resume` goes on from what was calibrated") from interrupt
        raise


def _written(checkpoint: Path) -> dict[Path, tuple[int, int]]:
    """Tell the states of all checkpoints of one output apart, by when they were written and as what."""
    states: dict[Path, tuple[int, int]] = {}
    with suppress(OSError):  # a place that can't hold a checkpoint is refused where the checkpoint is written
        for file in _worlds(checkpoint):
            with suppress(OSError):
                stat = file.stat()
                states[file] = stat.st_mtime_ns, stat.st_ino
    return states


def has_moments(checkpoint: Path) -> bool:
    """Say whether a checkpoint was taken with second moments: any method can go on from one that was."""
    return any(bool(load_record(file).settings.get("moments")) for file in _worlds(checkpoint))


def has_attention_weights(checkpoint: Path) -> bool:
    """Say whether a checkpoint was taken with attention's weights: any criterion can go on from one that was."""
    return any(bool(load_record(file).settings.get("attention_weights")) for file in _worlds(checkpoint))


def recorded_threads(checkpoint: Path | None) -> int | None:
    """Give how many CPU threads a process alone was calibrating with when it left its checkpoint, if there is one."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    threads = load_record(checkpoint).settings.get("threads")
    return threads if type(threads) is int and 0 < threads <= (os.cpu_count() or 1) else None


def finished_samples(checkpoint: Path | None, ranks: Ranks = ALONE) -> int:
    """Count the samples that a rank's checkpoint covers."""
    file = None if checkpoint is None else own_checkpoint(checkpoint, ranks)
    return load_record(file).done if file is not None and file.is_file() else 0


def forget_checkpoint(checkpoint: Path | None) -> None:
    """Delete a checkpoint that is no longer needed, whichever rank wrote it."""
    for file in {} if checkpoint is None else _worlds(checkpoint):
        if is_own_file(file, STATISTICS):
            file.unlink(missing_ok=True)
    if checkpoint is not None:
        _remove_leftovers(checkpoint)


def refuse_foreign_checkpoint(checkpoint: Path, ranks: Ranks = ALONE) -> None:
    """Refuse a checkpoint's place where something else lies, or nothing can be written.

    Raises:
        OutputError: names it.
    """
    refuse_foreign_file(check_file_place(own_checkpoint(checkpoint, ranks)), STATISTICS)


def load_checkpoint(
    file: Path, instrumented: Instrumented, record: Mapping[str, Any], calls: Sequence[int] | None
) -> None:
    """Put a checkpoint's sums into the observers.

    Args:
        file: a rank's own.
        instrumented: what goes on.
        record: what decides the sums.
        calls: see `Instrumented.load`.

    Raises:
        ResumeError: the checkpoint is of another run or model.
        CheckpointError: it can't be read.
    """
    stored = load_statistics(file)
    for name, value in record.items():
        if stored.settings.get(name) != value:
            what = "" if isinstance(value, list | dict) else f" ({stored.settings.get(name)!r} there, {value!r} now)"
            raise ResumeError(
                f"the checkpoint {file} was made with other {name}{what}; "
                "repeat those settings, or start anew without `resume`"
            )
    try:
        instrumented.load(stored.statistics, calls)
    except CalibrationError as error:
        raise ResumeError(f"the checkpoint {file} doesn't fit: {error}") from error


def _named(checkpoint: Path, rank: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.stem}{rank}{checkpoint.suffix}")


def _worlds(checkpoint: Path) -> dict[Path, int]:
    """Find all checkpoints of one output, and by how many ranks each was written."""
    found = {checkpoint: 1} if checkpoint.is_file() else {}
    pattern = f"{glob.escape(checkpoint.stem)}.rank*of*{glob.escape(checkpoint.suffix)}"
    for file in sorted(checkpoint.parent.glob(pattern)):
        match = _RANK.search(file.stem)
        if match is not None:
            found[file] = int(match[2])
    return found


def _remove_leftovers(checkpoint: Path) -> None:
    """Remove what killed ranks left half-written, however many they were."""
    for partial in checkpoint.parent.glob(f".{glob.escape(checkpoint.stem)}*{glob.escape(checkpoint.suffix)}.*"):
        if not is_partial(partial.name):
            continue
        place = place_of_partial(partial)
        if place == checkpoint or place == _named(checkpoint, (_RANK.search(place.stem) or [""])[0]):
            remove_leftovers(place)


def _processes(world: int) -> str:
    return "one process" if world == 1 else f"{world} ranks"
