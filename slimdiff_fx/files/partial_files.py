"""The hidden folders in which files are written before they take their place: their names, and what killed runs left.

A name says whose the folder is: process, when that process began, and host. So a leftover is told from what a living
process writes, also where process numbers come round again or several hosts share a file system.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
import re
import shutil
import socket
import stat
import sys
from pathlib import Path

_PARTIAL = ".partial-"
# While a folder is replaced in two renames, the old one has this ending: it may be the only copy there is.
OLD = ".old"
_OWNER = re.compile(r"(?P<pid>\d+)(?:-(?P<began>\d+)-(?P<host>[0-9a-f]+)-\d+)?(?P<old>\.old)?")
_NAME_BYTES = 255  # where the file system doesn't say
_numbers = itertools.count()
_in_use: set[Path] = set()  # by this process


def make_partial(place: Path) -> Path:
    """Make the folder in which a file or folder is written, beside its place.

    Raises:
        OSError: it can't be made.
    """
    me = f"{os.getpid()}-{_began(os.getpid()) or 0}-{_host()}-{next(_numbers)}"
    partial = place.parent / f".{_stem(place)}{_PARTIAL}{me}"
    _in_use.add(partial)
    try:
        partial.mkdir()
    except OSError:
        _in_use.discard(partial)
        raise
    return partial


def drop_partial(partial: Path) -> None:
    """Remove a folder made by `make_partial`, with what is in it.

    What goes wrong here is never worth more than the error that led here: a leftover is removed by the next run.
    """
    with contextlib.suppress(OSError):
        shutil.rmtree(partial, ignore_errors=True)
    _in_use.discard(partial)


def remove_leftovers(place: Path) -> None:
    """Remove what killed runs left beside a place, and nothing that a living process, or another host, may write.

    A run killed between two renames left the old folder under another name; it gets its place back.
    """
    for leftover in place.parent.glob(f".{glob.escape(_stem(place))}{_PARTIAL}*"):
        owner = _OWNER.fullmatch(leftover.name.rpartition(_PARTIAL)[2])
        if owner is None or leftover in _in_use or _may_live(owner):
            continue
        with contextlib.suppress(OSError):
            if owner["old"] and not os.path.lexists(place):
                leftover.rename(place)
            elif leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Say whether a name is one of a folder in which something is written."""
    return name.startswith(".") and _PARTIAL in name and bool(_OWNER.fullmatch(name.rpartition(_PARTIAL)[2]))


def place_of_partial(partial: Path) -> Path:
    """Give a path whose leftovers the partial is among; see `remove_leftovers`."""
    return partial.with_name(partial.name[1:].rpartition(_PARTIAL)[0])


def longest_name(folder: Path) -> int:
    """Give how many bytes a name in a folder may have."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(os.pathconf(folder, "PC_NAME_MAX"))
    return _NAME_BYTES


def apply_umask(written: Path, partial: Path) -> None:
    """Give everything in `written` the mode that a plain write would have given it.

    Some libraries make their files for the owner alone, whatever the umask says. The folder made by `make_partial` has
    what umask, inherited group and access lists allow.

    Args:
        written: file or folder in `partial`, or `partial` itself.
        partial: made by `make_partial`.
    """
    folder_mode = stat.S_IMODE(partial.stat().st_mode)
    for each in (written, *written.rglob("*")) if written.is_dir() else (written,):
        if each.is_symlink():
            continue
        mode = folder_mode if each.is_dir() else folder_mode & 0o666
        if stat.S_IMODE(each.stat().st_mode) != mode:
            with contextlib.suppress(OSError):  # file systems without modes
                each.chmod(mode)


def _stem(place: Path) -> str:
    """Give what the names of a place's partial folders begin with: short enough for whatever follows."""
    room = longest_name(place.parent) - len(f".{_PARTIAL}{'0' * 10}-{'0' * 20}-{'0' * 8}-{'0' * 10}{OLD}")
    name = os.fsencode(place.name)
    return place.name if len(name) <= room else hashlib.sha256(name).hexdigest()[:32]


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _may_live(owner: re.Match[str]) -> bool:
    """Say whether the process that a partial folder is of may be there still."""
    if owner["host"] is not None and owner["host"] != _host():
        return True
    pid = int(owner["pid"])
    # What this very process still writes is known, and not asked about here.
    if pid == os.getpid() or not _is_there(pid):
        return False
    then, now = int(owner["began"] or 0), _began(pid)
    reused = bool(then and now and then != now)
    return not reused


def _is_there(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # asking would send it a signal
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return True


def _began(pid: int) -> int | None:
    """Give when a process began, in the kernel's ticks; None where that can't be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
