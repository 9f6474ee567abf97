"""The record in a saved folder of what slimdiff_fx wrote there: each file's name, size and digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passes.errors import CheckpointError

MANIFEST_FILE = "slimdiff_fx.json"
_FORMAT = 1


@dataclass(frozen=True)
class WrittenFile:
    """A file as it was written.

    Attributes:
        bytes: its size.
        sha256: its digest.
        later: it was put into the folder after that was saved, as exports and pages are.
    """

    bytes: int
    sha256: str
    later: bool = False

    def is_unchanged(self, file: Path) -> bool:
        """Compare with a file; an OSError if that can't be read."""
        return file.stat().st_size == self.bytes and file_digest(file) == self.sha256


def file_digest(file: Path) -> str:
    """Give the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, WrittenFile] | None:
    """Read a folder's record, by names with forward slashes; None if it has none.

    Raises:
        CheckpointError: it is garbled.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r}")
        return {str(name): _entry(entry) for name, entry in data["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is garbled ({error}); get the folder anew, or save the pipeline anew") from error


def manifest_of(folder: Path) -> str:
    """Give the record, as text, of a folder whose files were all written just now."""
    return _text({name: _describe(folder / name) for name in sorted(files_in(folder)) if name != MANIFEST_FILE})


def manifest_with(folder: Path, names: Iterable[str]) -> str:
    """Give a folder's record with files that were put there later, or are gone.

    Raises:
        CheckpointError: the record is garbled.
        OSError: a file can't be read.
    """
    files = dict(read_manifest(folder) or {})
    for name in names:
        if not (folder / name).is_file():
            files.pop(name, None)
        else:
            later = name not in files or files[name].later
            files[name] = _describe(folder / name, later=later)
    return _text(files)


def empty_manifest() -> str:
    """Give the record of a folder in which something else has written over what slimdiff_fx wrote."""
    return _text({})


def files_in(folder: Path) -> Iterator[str]:
    """List all that isn't a folder, links to folders included, by names with forward slashes.

    Raises:
        OSError: a folder can't be read.
    """
    for place, folders, names in os.walk(folder, onerror=_fail):
        for name in (*names, *(each for each in folders if (Path(place) / each).is_symlink())):
            yield (Path(place) / name).relative_to(folder).as_posix()


def _fail(error: OSError) -> None:
    raise error


def _describe(file: Path, *, later: bool = False) -> WrittenFile:
    return WrittenFile(file.stat().st_size, file_digest(file), later)


def _entry(data: Mapping[str, Any]) -> WrittenFile:
    return WrittenFile(int(data["bytes"]), str(data["sha256"]), bool(data.get("later", False)))


def _text(files: Mapping[str, WrittenFile]) -> str:
    entries = {
        name: {key: value for key, value in asdict(entry).items() if key != "later" or value}
        for name, entry in files.items()
    }
    return json.dumps({"format": _FORMAT, "files": entries}, indent=1) + "\n"
