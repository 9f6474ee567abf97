"""Pictures inside the page: read from the slim folder, made small enough, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from passes.errors import CheckpointError

_SIDE = 512  # pixels that a picture in the page has at most
_SMALL = 128  # pixels up to which a picture is shown pixel by pixel


@dataclass(frozen=True)
class Pair:
    """The same prompt and seed, drawn by both.

    Attributes:
        condition: prompt or class label.
        psnr: of slim against dense, in dB; None where they are equal.
        dense: data URI.
        slim: data URI.
        width: of the pictures in pixels.
        height: likewise.
        small: whether they are to be enlarged pixel by pixel.
    """

    condition: str
    psnr: float | None
    dense: str
    slim: str
    width: int
    height: int
    small: bool


@dataclass(frozen=True)
class Sheet:
    """All pictures on one, as earlier versions saved them.

    Attributes:
        uri: data URI.
        width: in pixels.
        height: in pixels.
    """

    uri: str
    width: int
    height: int


def read_pairs(folder: Path, entry: Mapping[str, Any]) -> list[Pair]:
    """Read the pairs that a report names; none where it names only a sheet.

    Args:
        folder: the slim folder.
        entry: "pictures" of report.json.

    Raises:
        CheckpointError: a picture is missing or damaged.
    """
    place = entry.get("folder")
    if not isinstance(place, str):
        return []
    pairs = []
    decibels = entry["psnr_db"]
    # Earlier versions wrote one object, by condition.
    shown = decibels.items() if isinstance(decibels, Mapping) else zip(entry["conditions"], decibels, strict=True)
    for number, (condition, psnr) in enumerate(shown):
        files = [folder / place / f"{number:02}-{word}.png" for word in ("dense", "slim")]
        (dense, (width, height)), (slim, _) = (_embedded(file) for file in files)
        pairs.append(Pair(condition, psnr, dense, slim, width, height, max(width, height) <= _SMALL))
    return pairs


def read_sheet(folder: Path, entry: Mapping[str, Any]) -> Sheet | None:
    """Read the sheet of all pictures, if there is one.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / str(entry.get("file"))
    if not file.is_file():
        return None
    data = file.read_bytes()
    return Sheet(_uri(data, "png"), *_opened(file, data).size)


def _embedded(file: Path) -> tuple[str, tuple[int, int]]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"the picture {file} can't be read ({error}); slim again to draw it anew") from error
    picture = _opened(file, data)
    if max(picture.size) <= _SMALL:
        return _uri(data, "png"), picture.size
    picture = picture.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90)
    return _uri(buffer.getvalue(), "webp"), picture.size


def _opened(file: Path, data: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (UnidentifiedImageError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or no picture ({error}); slim again to draw it anew") from error
    return picture


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
