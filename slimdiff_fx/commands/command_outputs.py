"""What commands check about their outputs before any work, and say of them at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from passes.errors import OutputError
from slimdiff_fx.calibration.checkpoint import own_checkpoint, refuse_foreign_checkpoint
from slimdiff_fx.calibration.disk_sums import sums_in
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.files.output_paths import check_work_folder, refuse_overlap
from slimdiff_fx.files.own_files import FileKind, check_output_file
from slimdiff_fx.files.own_folder import check_own_folder, later_files
from slimdiff_fx.listener import Listener
from slimdiff_fx.saved.folder import REPORT_FILE
from slimdiff_fx.saved.page.write_page import PAGE_FILE
from slimdiff_fx.saved.verdict import verdict

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
    """Say which exports go with the folder that --overwrite replaces; its page is made anew."""
    for name in later_files(out):
        if name == PAGE_FILE:
            continue
        listener.note(f"--overwrite also removes {out / name}, which is of the model that is replaced")


def note_edited(names: tuple[str, ...], listener: Listener) -> None:
    """Say which settings of a saved folder were changed since."""
    for name in names:
        listener.note(f"{name} was edited since the pipeline was saved; it is used as it is now")


def took(start: float) -> str:
    """Write the time since a reading of `time.perf_counter`, as 0:01:30."""
    return str(timedelta(seconds=round(time.perf_counter() - start)))


def tell_verdict(folder: Path, console: Console, start: float) -> None:
    """Say what came of it: figures, how long it took since `start`, where it is and how it is loaded."""
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    lines = [*verdict(report), ("time", f"{took(start)} all in all")]
    page = folder / PAGE_FILE
    if page.is_file():
        lines.append(("page", str(page)))
    lines.append(("folder", str(folder)))
    console.print()
    for label, text in lines:
        console.print(f"[bold]{label:<14}[/bold]{escape(text)}", highlight=False, soft_wrap=True)
    if not page.is_file():
        console.print(f"[yellow]note[/yellow] no page could be made; `slimdiff-fx report {folder}` says why")
    console.print(f"\nTo load it:\n{loading(folder)}", highlight=False, markup=False, soft_wrap=True)


def loading(folder: Path) -> str:
    """Give the lines that load a saved pipeline."""
    return f"  from diffusers import DiffusionPipeline\n  pipe = DiffusionPipeline.from_pretrained({str(folder)!r})"


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
