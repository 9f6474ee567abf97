"""One process at a time, where several read a file, add to it and write it back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there the last of two that write at once wins
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep other processes that do the same out for the duration of a block; wait while one is in.

    The lock is a hidden file beside `file`, gone afterwards; the system takes it from a process that ends, however it
    does. Where the file system has no locks, nobody is kept out.

    Args:
        file: what is read and written. Its folder must exist.
    """
    place = file.with_name(f".{file.name}.lock")
    descriptor = _acquired(place)
    try:
        yield
    finally:
        if descriptor is not None:
            # Deleted before it is released: a process that waits for the lock then makes a new file.
            place.unlink(missing_ok=True)
            os.close(descriptor)


def _acquired(place: Path) -> int | None:
    """Give the descriptor of a lock that is held, or None where there are none."""
    if fcntl is None:
        return None
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # no lock can be written here; writing the file itself fails too, with an error that says so
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    return descriptor
        except BaseException as error:  # an interrupt while waiting, too
            os.close(descriptor)
            if isinstance(error, OSError):
                return None
            raise
        os.close(descriptor)
