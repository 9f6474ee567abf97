"""Files and folders that appear whole or not at all: written beside their place, then renamed into it.

How, not whether: `own_files` and `own_folder` say what may be replaced. Links are followed, never replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.files.manifest import MANIFEST_FILE, manifest_with
from slimdiff_fx.files.output_paths import follow
from slimdiff_fx.files.partial_files import OLD, apply_umask, drop_partial, make_partial, remove_leftovers

# safetensors reports a full disk as its own error.
_WRITE_FAILURES = (OSError, SafetensorError)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it takes `path`'s place, on any failure nothing changes.

    A kill in the middle leaves a hidden leftover beside it, which the next write removes.

    Args:
        path: the file to create or replace. Its folder must exist.

    Yields:
        A path on the same file system and of the same name, so that the final rename is one step.

    Raises:
        OutputError: `path` leads nowhere, or to something that is neither a file nor a folder.
        CheckpointError: the file can't be written (full disk, no permission, no such folder).
    """
    with replaced_files(path) as (written,):
        yield written


@contextmanager
def replaced_files(first: Path, *others: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a path to write to for each of several files that belong together; see `replaced_file`.

    They are written under their own names in a folder beside their place, since such files name each other. `first`
    comes into place last, so that it is never there without the others. One of the others that isn't written is
    removed from its place in the end: what was there belonged to the old `first`.

    Where the folder has a record of what slimdiff_fx wrote (see `slimdiff_fx.files.manifest`), they are added to it.

    Raises:
        OutputError: see `replaced_file`.
        CheckpointError: a file can't be written; those that were there are there still.
    """
    places = [follow(path) for path in (first, *others)]
    with _partial_beside(places[0], first) as partial:
        new = partial / "new"
        new.mkdir()
        yield tuple(new / place.name for place in places)
        pairs = [(new / place.name, place) for place in (*places[1:], places[0])]
        pairs = [pair for pair in pairs if pair[0].exists() or pair[1] == places[0]]
        for written, _ in pairs:
            apply_umask(written, partial)
            flush_to_disk(written)
        _put_into_place(pairs, partial)
        for place in set(places[1:]) - {place for _, place in pairs}:
            place.unlink(missing_ok=True)
        _flush_folder(places[0].parent)
    _record(places)


@contextmanager
def replaced_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes `path`'s place, on any failure `path` stays as it was.

    A kill in the middle leaves the old folder whole and a hidden leftover beside it, which the next save removes.

    Args:
        path: the folder to create or replace.
        overwrite: allow `path` to hold something already; all of it is removed.

    Raises:
        CheckpointError: the folder is in the way, or can't be written.
    """
    place = follow(path)
    refuse_occupied(path, overwrite=overwrite)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(path, error) from error
    with _partial_beside(place, path) as partial:
        yield partial
        apply_umask(partial, partial)
        for file in partial.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        _swap_into_place(partial, place)
        _flush_folder(place.parent)


def refuse_occupied(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, so that hours of work are not lost at the end.

    Raises:
        OutputError: `path` is a file, or a folder that isn't empty and `overwrite` is False.
    """
    if path.is_file():
        raise OutputError(f"{path} is a file, and a folder is to be written there; choose another output")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise OutputError(
            f"{path} exists and isn't empty; choose another output, or pass `overwrite=True` to replace what "
            "slimdiff_fx wrote there"
        )


@contextmanager
def _partial_beside(place: Path, path: Path) -> Iterator[Path]:
    """Give a folder to write in; drop it in the end, and turn failures to write into errors that name `path`."""
    remove_leftovers(place)
    try:
        partial = make_partial(place)
    except OSError as error:
        raise _write_error(path, error) from error
    try:
        yield partial
    except _WRITE_FAILURES as error:
        raise _write_error(path, error) from error
    finally:
        drop_partial(partial)


def flush_to_disk(file: Path) -> None:
    """Have a file written out: without this a power cut after its rename could leave it empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Have renames written out, where the system can do that."""
    with contextlib.suppress(OSError):
        flush_to_disk(folder)


def _put_into_place(pairs: Sequence[tuple[Path, Path]], partial: Path) -> None:
    """Rename files into place, all of them or none."""
    if len(pairs) == 1:
        os.replace(*pairs[0])
        return
    done: list[tuple[Path, Path | None]] = []
    try:
        for number, (written, place) in enumerate(pairs):
            done.append((place, _keep(place, partial / f"{number}.before")))
            os.replace(written, place)
    except BaseException:
        for place, kept in reversed(done):
            with contextlib.suppress(OSError):
                if kept is not None:
                    os.replace(kept, place)
                else:
                    place.unlink(missing_ok=True)
        raise


def _keep(file: Path, kept: Path) -> Path | None:
    """Keep what is at a place under a second name, to put it back; None if there is nothing."""
    if not file.exists():
        return None
    try:
        os.link(file, kept)
    except OSError:  # a file system without links
        os.rename(file, kept)
    return kept


def _swap_into_place(new: Path, place: Path) -> None:
    if not place.exists():
        os.rename(new, place)
        return
    if _exchange(new, place):
        return  # `new` now holds the old content; the caller removes it.
    # No atomic exchange here (not Linux, or a file system without it): two renames, undone if the second fails.
    old = new.with_name(f"{new.name}{OLD}")
    os.rename(place, old)
    try:
        os.rename(new, place)
    except OSError:
        os.rename(old, place)
        raise
    drop_partial(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step of the kernel; False where that isn't offered."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(current_folder, os.fsencode(one), current_folder, os.fsencode(other), exchange) == 0)


def _record(places: Sequence[Path]) -> None:
    """Add files to the record of their folder, if it has one. Without their entry they are never replaced: no harm."""
    folder = places[0].parent
    if places[0].name == MANIFEST_FILE or not (folder / MANIFEST_FILE).is_file():
        return
    with contextlib.suppress(CheckpointError, OSError):
        text = manifest_with(folder, [place.name for place in places])
        with replaced_file(folder / MANIFEST_FILE) as written:
            written.write_text(text, encoding="utf-8")


def _write_error(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"could not write {path}: {reason}; what was there before is untouched, free space or choose another place"
    )
