"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from passes.errors import CheckpointError

_PARTIAL = ".partial-"
# safetensors reports a full disk as its own error.
_WRITE_FAILURES = (OSError, SafetensorError)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it takes `path`'s place, on any failure nothing changes.

    A kill in the middle leaves a hidden leftover beside it, which the next write removes.

    Args:
        path: the file to create or replace. Its folder must exist.

    Yields:
        A path in the same folder, so that the final rename stays on one file system.

    Raises:
        CheckpointError: the file can't be written (full disk, no permission, no such folder).
    """
    _remove_leftovers(path)
    partial = _partial_beside(path)
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
    except _WRITE_FAILURES as error:
        raise _write_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_files(first: Path, *others: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a path to write to for each of several files that belong together; see `replaced_file`.

    They are written under their own names in a folder beside their place, since such files name each other. `first`
    comes into place last, so that it is never there without the others.

    Raises:
        CheckpointError: a file can't be written.
    """
    partial = _partial_beside(first)
    try:
        partial.mkdir()
        yield tuple(partial / path.name for path in (first, *others))
        for path in (*others, first):
            flush_to_disk(partial / path.name)
            os.replace(partial / path.name, path)
    except _WRITE_FAILURES as error:
        raise _write_error(first, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes `path`'s place, on any failure `path` stays as it was.

    A kill in the middle leaves the old folder whole and a hidden leftover beside it, which the next save removes.

    Args:
        path: the folder to create or replace.
        overwrite: allow `path` to hold something already.

    Raises:
        CheckpointError: the folder is in the way, or can't be written.
    """
    refuse_occupied(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial = _partial_beside(path)
        partial.mkdir()
    except OSError as error:
        raise _write_error(path, error) from error
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        _swap_into_place(partial, path)
    except _WRITE_FAILURES as error:
        raise _write_error(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_occupied(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, so that hours of work are not lost at the end.

    Raises:
        CheckpointError: `path` is a file, or a folder that isn't empty and `overwrite` is False.
    """
    if path.is_file():
        raise CheckpointError(f"{path} is a file, and a folder is to be written there; choose another output")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise CheckpointError(
            f"{path} exists and isn't empty; choose another output, or pass --overwrite to replace it"
        )


def refuse_existing_file(path: Path, *, overwrite: bool) -> None:
    """Refuse an output file that is there already.

    Raises:
        CheckpointError: `path` is a folder, or a file and `overwrite` is False.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, and a file is to be written there; choose another output")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; choose another output, or pass --overwrite to replace it")


def _partial_beside(path: Path) -> Path:
    return path.absolute().parent / f".{path.name}{_PARTIAL}{os.getpid()}"


def _remove_leftovers(path: Path) -> None:
    for leftover in path.absolute().parent.glob(f".{glob.escape(path.name)}{_PARTIAL}*"):
        owner = leftover.name.rpartition("-")[2]
        if owner == str(os.getpid()) or (owner.isdigit() and not Path(f"/proc/{owner}").exists()):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def flush_to_disk(file: Path) -> None:
    """Have a file written out: without this a power cut after its rename could leave it empty."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_into_place(new: Path, path: Path) -> None:
    if not path.exists():
        os.rename(new, path)
        return
    if _exchange(new, path):
        return  # `new` now holds the old content; the caller removes it.
    # No atomic exchange here (not Linux, or a file system without it): two renames, undone if the second fails.
    old = new.with_name(f"{new.name}.old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step of the kernel; False where that isn't offered."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(current_folder, os.fsencode(one), current_folder, os.fsencode(other), exchange) == 0)


def _write_error(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"could not write {path}: {reason}; what was there before is untouched, free space or choose another place"
    )
