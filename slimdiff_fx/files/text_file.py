"""Read text that a user wrote, from a file or a pipe, and say where it is none."""

from __future__ import annotations

import codecs
import sys
from contextlib import nullcontext
from pathlib import Path

from passes.errors import UsageError

STDIN = Path("-")
# A larger input is no list of prompts but an endless pipe or some other file.
MOST_BYTES = 1 << 28
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK = 1 << 20


def read_text(file: Path, what: str) -> str:
    """Read UTF-8 text, with or without a byte order mark; `-` is standard input.

    Args:
        file: a file, a pipe such as /dev/fd/63, or `-`.
        what: names it in messages: "prompt file".

    Raises:
        UsageError: it is missing, a folder, too large, can't be read, or holds no text; says in which line.
    """
    if file != STDIN:
        if file.is_dir():
            raise UsageError(f"{what} {file} is a folder; give a file")
        if not file.exists():
            raise UsageError(f"{what} {file} doesn't exist; give a text file, or `-` for standard input")
    try:
        data = _read(file, what)
    except OSError as error:
        raise UsageError(f"{what} {file} can't be read ({error.strerror or error}); give another") from error
    if data.startswith(_WIDE):
        raise UsageError(f"{what} {file} is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise UsageError(f"{what} {file}, line {_line(data, data.index(0))}: a NUL byte; give UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} {file}, line {_line(data, error.start)}: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from error


def _read(file: Path, what: str) -> bytes:
    data = bytearray()
    with nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            data += chunk
            if len(data) > MOST_BYTES:
                raise UsageError(f"{what} {file} is larger than {MOST_BYTES >> 20} MiB; give a part of it")
            if b"\0" in chunk:  # no text, and perhaps endless
                break
    return bytes(data)


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
