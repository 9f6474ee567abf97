"""Pictures of dense and slim side by side, and how far apart they are."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from slimdiff_fx.pipelines.sampling import Given, nothing_more

Item = TypeVar("Item")
_SIDE = 160
_MARGIN = 8
_LINE = 16
_MUTED, _EDGE = "#586770", "#b9c3c8"  # as on the page


@dataclass(frozen=True)
class Comparison:
    """The same prompts and seeds, drawn by both.

    Attributes:
        conditions: prompts or class labels.
        dense: one picture each.
        slim: one picture each.
        relative_mse: relative squared error of the slim denoiser's prediction while the dense one drew.
        given: what else they were drawn from, such as pictures.
    """

    conditions: tuple[str, ...]
    dense: tuple[Image.Image, ...]
    slim: tuple[Image.Image, ...]
    relative_mse: float | None = None
    given: Given = nothing_more

    def psnr(self) -> tuple[float, ...]:
        """Measure each slim picture against the dense one, in dB; see `psnr`."""
        return tuple(psnr(one, other) for one, other in zip(self.dense, self.slim, strict=True))


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Measure how close two pictures are: the peak signal-to-noise ratio over all pixels and colours, in dB.

    This is the one definition: pages, cards, terminal and benchmarks give this ratio of each picture, or `mean_psnr`.

    Returns:
        10 log10(255² / mean squared difference), of 8 bits a colour; infinite where they are equal.
    """
    difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    squares = ImageStat.Stat(difference).sum2
    return decibels(sum(squares) / (3 * one.width * one.height))


def decibels(squared: float) -> float:
    """Turn a mean squared difference of 8-bit colours into a peak signal-to-noise ratio in dB; zero gives infinity.

    Example:
        >>> round(decibels(100.0), 2)
        28.13
    """
    return math.inf if squared == 0 else 10 * math.log10(255**2 / squared)


def mean_psnr(values: Sequence[float]) -> float:
    """Give the mean of pictures' own ratios, in dB, over those that differ; infinite where none does.

    A pair of equal pictures has no finite ratio, and whatever stood for it would hide how far the others are apart.

    Example:
        >>> mean_psnr([20.0, 30.0, math.inf])
        25.0
    """
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


def psnr_words(value: float | None) -> str:
    """Write a ratio as everywhere: to a tenth of a dB; "equal" where it is infinite or None, as JSON has it.

    Example:
        >>> psnr_words(21.44), psnr_words(None)
        ('21.4 dB', 'equal')
    """
    return "equal" if value is None or math.isinf(value) else f"{value:.1f} dB"


def mean_words(ratios: Sequence[float | None], mean: float | None) -> tuple[str, str]:
    """Write the mean of pictures' ratios and what it is the mean of, given as JSON has them: None for equal pictures.

    Example:
        >>> mean_words([20.0, None, 30.0], 25.0)
        ('25.0 dB', 'mean of 2 pictures; 1 more is equal')
    """
    equal = sum(ratio is None for ratio in ratios)
    if mean is None:
        return psnr_words(mean), "every picture"
    more = f"; {equal} more {'is' if equal == 1 else 'are'} equal" if equal else ""
    count = len(ratios) - equal
    return psnr_words(mean), f"mean of {count} {'picture' if count == 1 else 'pictures'}{more}"


def side_by_side(comparison: Comparison, title: str = "") -> Image.Image:
    """Lay the pictures out in rows: dense, slim, and the prompt below; two pairs to a row."""
    font = ImageFont.load_default(12)
    pair_width, pair_height = 2 * _SIDE + 3 * _MARGIN, _SIDE + 2 * _LINE + 2 * _MARGIN
    columns = min(2, len(comparison.conditions))
    rows = math.ceil(len(comparison.conditions) / columns)
    top = _LINE + _MARGIN if title else 0
    sheet = Image.new("RGB", (columns * pair_width, top + rows * pair_height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill="black", font=font)
    entries = zip(comparison.conditions, comparison.dense, comparison.slim, comparison.psnr(), strict=True)
    for number, (condition, dense, slim, ratio) in enumerate(entries):
        left = (number % columns) * pair_width + _MARGIN
        upper = top + (number // columns) * pair_height + _MARGIN
        for offset, (word, picture) in enumerate((("dense", dense), ("slim", slim))):
            x = left + offset * (_SIDE + _MARGIN)
            label = word if word == "dense" else f"{word}  {psnr_words(ratio)}"
            draw.text((x, upper), label, fill=_MUTED, font=font)
            fitted = _fit(picture)
            # A white picture would have no edge on the white sheet.
            corners = (x - 1, upper + _LINE - 1, x + fitted.width, upper + _LINE + fitted.height)
            draw.rectangle(corners, outline=_EDGE)
            sheet.paste(fitted, (x, upper + _LINE))
        draw.text((left, upper + _LINE + _SIDE + 2), _shorten(condition, font), fill="black", font=font)
    return sheet


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def pick_conditions(conditions: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Pick conditions spread over the whole list, so that sorted lists show all their kinds."""
    if count >= len(conditions):
        return tuple(conditions)
    return tuple(conditions[(2 * number + 1) * len(conditions) // (2 * count)] for number in range(count))


def _fit(picture: Image.Image) -> Image.Image:
    scale = _SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Small pictures are shown as they are, pixel by pixel: a smooth enlargement would hide what slimming did.
    filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, filter_)


def _shorten(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    limit = 2 * _SIDE + _MARGIN
    if font.getlength(text) <= limit:
        return text
    while text and font.getlength(text + "…") > limit:
        text = text[:-1]
    return text + "…"
