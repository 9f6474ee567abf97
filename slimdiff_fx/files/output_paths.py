"""Where an output may be written: paths that users give, expanded, followed, and refused before any work."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from passes.errors import OutputError
from slimdiff_fx.files.partial_files import longest_name

# While something is written, its path, or those of the files in it, are at most that much longer.
_DEEPER = 400
_PATH_BYTES = 4096  # where the system doesn't say
_REASONS = {
    errno.ELOOP: "is a link that leads round in a circle",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.ENOTDIR: "lies in something that is no folder",
    errno.EACCES: "lies in a folder that can't be entered",
}


def expand(path: str | Path) -> Path:
    """Replace `~` and `~user` as a shell does: left as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def follow(path: str | Path) -> Path:
    """Give the place that an output path leads to, absolute, `~` expanded and every link followed.

    Raises:
        OutputError: a link leads nowhere, or there is something that is neither a file nor a folder.
    """
    path = expand(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise OutputError(
                f"{path} is a link to {os.readlink(path)}, which isn't there; make that first, or name another output"
            ) from None
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise OutputError(f"{str(path)!r} is no path ({error}); name another output") from error
    except OSError as error:
        raise OutputError(
            f"{path} {_REASONS.get(error.errno or 0, f'can not be looked at ({error.strerror})')}; name another output"
        ) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OutputError(
            f"{path} is neither a file nor a folder ({_kind(mode)}) and is not replaced; name another output"
        )
    return Path(os.path.realpath(path))


def check_file_place(path: str | Path, *, endings: tuple[str, ...] = ()) -> Path:
    """Make sure that a file can be written, and give its place; see `follow`.

    Args:
        path: the output.
        endings: of the names of files that are written beside it.

    Raises:
        OutputError: there is a folder; or its parent isn't there, is no folder or can't be written to; or a name is
            too long.
    """
    place = follow(path)
    if place.is_dir():
        raise OutputError(f"{path} is a folder, and a file is to be written there; choose another output")
    _check_length(place, endings, path, deeper=_DEEPER)
    if not place.parent.exists():
        raise OutputError(f"{path}: there is no folder {place.parent}; make it first, or choose another output")
    _require_writable(place.parent, path)
    if place.exists() and not os.access(place, os.W_OK):
        raise OutputError(f"{path} is write-protected; choose another output, or make it writable")
    return place


def check_folder_place(path: str | Path, *, endings: tuple[str, ...] = ()) -> Path:
    """Make sure that a folder can be written, and give its place; see `follow`. Missing parents will be made.

    Args:
        path: the output.
        endings: of the names of files that are written beside it.

    Raises:
        OutputError: there is a file; or a folder that can't be replaced; or nothing can be made where its parents are
            to be; or a name is too long.
    """
    place = follow(path)
    if place.is_file():
        raise OutputError(f"{path} is a file, and a folder is to be written there; choose another output")
    if place.is_dir() and place in (here := Path(os.path.realpath(os.curdir)), *here.parents):
        raise OutputError(f"{path} is the current folder, or above it, and can't be replaced; name a new folder")
    if os.path.ismount(place):
        raise OutputError(f"{path} is where a file system is mounted, and can't be replaced; name a folder in it")
    for name in reversed(place.parents):
        _check_length(name, (), path)
    _check_length(place, endings, path, deeper=_DEEPER)
    _require_writable(next(parent for parent in place.parents if parent.exists()), path)
    return place


def check_work_folder(path: str | Path) -> None:
    """Make sure that files can be kept in a folder, which is made when there is something to keep.

    Raises:
        OutputError: it is no folder and can't become one, or can't be written to.
    """
    place = follow(path)
    _require_writable(next(each for each in (place, *place.parents) if each.exists()), path)


def refuse_overlap(path: str | Path, inputs: Mapping[str, str | Path | None], *, inside: bool = False) -> None:
    """Refuse an output that is one of the inputs, inside or above it.

    Args:
        path: the output.
        inputs: what is read, by what the user knows it as, such as "--prompts"; None where nothing was given.
        inside: allow an output inside of them.

    Raises:
        OutputError: names the input.
    """
    place = follow(path)
    for name, given in inputs.items():
        if given is None:
            continue
        source = Path(os.path.realpath(expand(given)))
        if _same(place, source):
            raise OutputError(f"{path} is what {name} names; choose another output")
        if not inside and any(_same(parent, source) for parent in place.parents):
            raise OutputError(f"{path} lies inside {given}, which {name} names; choose an output outside of it")
        if any(_same(parent, place) for parent in source.parents):
            raise OutputError(f"{path} holds {given}, which {name} names; choose another output")


def _same(one: Path, other: Path) -> bool:
    """Compare places; also those whose names differ in what the file system doesn't tell apart."""
    if one == other:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _require_writable(folder: Path, path: str | Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is no folder; choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} can't be written to; choose another output")


def _check_length(place: Path, endings: tuple[str, ...], path: str | Path, deeper: int = 0) -> None:
    parent = next((each for each in place.parents if each.exists()), place)
    longest, name = longest_name(parent), len(os.fsencode(place.name))
    beside = max((len(os.fsencode(ending)) for ending in endings), default=0)
    if name + beside > longest:
        more = f", and {beside} more for what is written beside it" if beside else ""
        raise OutputError(
            f"{str(path)[:60]}…: a name of {name} bytes{more} is too long, {longest} are allowed; choose another output"
        )
    whole, allowed = len(os.fsencode(place)) + beside + deeper, _path_bytes(parent)
    if whole >= allowed:
        raise OutputError(f"{str(path)[:60]}…: a path of {whole} bytes is too long; choose another output")


def _path_bytes(folder: Path) -> int:
    try:
        return int(os.pathconf(folder, "PC_PATH_MAX"))
    except (OSError, ValueError, AttributeError):
        return _PATH_BYTES


def _kind(mode: int) -> str:
    kinds = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "something else")
