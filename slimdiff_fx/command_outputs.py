"""What commands check about their outputs before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from passes.errors import OutputError
from slimdiff_fx.calibration_checkpoint import own_checkpoint, refuse_foreign_checkpoint
from slimdiff_fx.disk_sums import sums_in
from slimdiff_fx.listener import Listener
from slimdiff_fx.output_paths import check_work_folder, refuse_overlap
from slimdiff_fx.own_files import FileKind, check_output_file
from slimdiff_fx.own_folder import check_own_folder, later_files
from slimdiff_fx.ranks import ALONE, Ranks

MOMENTS_FOLDER = "--moments-folder"
Inputs = Mapping[str, str | Path | None]


def check_folder_output(
    out: Path,
    inputs: Inputs,
    *,
    overwrite: bool,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
    work: Inputs | None = None,
) -> None:
    """Refuse a folder that a command can't or must not write.

    Args:
        out: the folder.
        inputs: what the command reads, by option.
        overwrite: as the user gave it.
        checkpoint: of a calibration, that is written beside it.
        ranks: the processes that share the calibration.
        work: folders for what is written meanwhile, by option; they must not lie in the output.

    Raises:
        OutputError: says why.
        CheckpointError: moments can't be kept where they are to be.
    """
    check_own_folder(out, overwrite=overwrite, inputs=inputs, endings=_ending(out, checkpoint, ranks))
    if checkpoint is not None:  # it is written long before the folder is, whose parents may be missing
        try:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{checkpoint.parent} can't be made ({error.strerror}); choose another output") from error
    _check_beside(out, checkpoint, ranks, work)


def check_file_output(
    out: Path,
    kind: FileKind,
    inputs: Inputs,
    *,
    overwrite: bool,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
    work: Inputs | None = None,
) -> None:
    """Refuse a file that a command can't or must not write; see `check_folder_output`."""
    check_output_file(out, kind, overwrite=overwrite, inputs=inputs, endings=_ending(out, checkpoint, ranks))
    _check_beside(out, checkpoint, ranks, work)


def note_replaced(out: Path, listener: Listener) -> None:
    """Say which exports and pages go with the folder that --overwrite replaces."""
    for name in later_files(out):
        listener.note(f"--overwrite also removes {out / name}, which is of the model that is replaced")


def note_edited(names: tuple[str, ...], listener: Listener) -> None:
    """Say which settings of a saved folder were changed since."""
    for name in names:
        listener.note(f"{name} was edited since the pipeline was saved; it is used as it is now")


def _check_beside(out: Path, checkpoint: Path | None, ranks: Ranks, work: Inputs | None) -> None:
    if checkpoint is not None:
        refuse_foreign_checkpoint(checkpoint, ranks)
    refuse_overlap(out, work or {}, inside=True)
    for name, folder in (work or {}).items():
        if folder is not None and name == MOMENTS_FOLDER:
            sums_in(Path(folder))  # tries it
        elif folder is not None:
            check_work_folder(folder)


def _ending(out: Path, checkpoint: Path | None, ranks: Ranks) -> tuple[str, ...]:
    return () if checkpoint is None else (own_checkpoint(checkpoint, ranks).name[len(out.name) :],)
