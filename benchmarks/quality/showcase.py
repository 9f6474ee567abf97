"""The README's first picture: what dense and slim draw of the subjects that the built-in pipeline knows."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.quality.arena import Arena, enter
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.reference.sheets import prompts
from slimdiff_fx.pipelines.sampling import draw

_SIDE, _GAP = 112, 4


def draw_showcase(arena: Arena, file: Path, *, removed: float, seed: int = 0) -> None:
    """Draw the known subjects, each in another style, dense above and slim below, from the same seeds.

    Args:
        arena: the model.
        file: the PNG to write.
        removed: share of the sites' weights that goes, by the best method.
        seed: of calibration and noise.
    """
    rows = prompts()
    chosen = tuple(rows[number % len(rows)][number] for number in range(len(rows[0])))
    slim = enter(arena, CONTESTANTS["best"].make(arena, removed, seed)).model
    pipe = arena.loaded.pipe
    dense, drawn = pipe.unet, []
    for model in (dense, slim):
        pipe.unet = model
        drawn.append(draw(pipe, chosen, seed, arena.loaded.sampling))
    pipe.unet = dense
    sheet = Image.new("RGB", (len(chosen) * (_SIDE + _GAP), 2 * (_SIDE + _GAP)), "white")
    for row, pictures in enumerate(drawn):
        for column, picture in enumerate(pictures):
            sized = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            sheet.paste(sized, (column * (_SIDE + _GAP), row * (_SIDE + _GAP)))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)
