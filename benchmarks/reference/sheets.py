"""Sample sheets: what a checkpoint draws, to be looked at while it trains."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from benchmarks.reference.pictures import MAIN_STYLES, SHOWN_SUBJECTS, SIZE
from benchmarks.reference.pipeline import SAMPLING

GAP = 4


def prompts() -> list[list[str]]:
    """List the prompts that the pipeline must draw recognisably: one row a style."""
    return [[f"{style} {subject}" for subject in SHOWN_SUBJECTS] for style in MAIN_STYLES]


def draw(pipe: DiffusionPipeline, path: Path, seed: int = 0) -> None:
    """Draw every prompt of `prompts()` with one seed each and save the pictures as one PNG.

    Args:
        pipe: the pipeline; fp16 weights are computed with in fp32, which a CPU is faster at.
        path: the PNG to write.
        seed: of the first picture; the others count on.
    """
    pipe = pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rows = prompts()
    sheet = Image.new("RGB", (len(rows[0]) * (SIZE + GAP) + GAP, len(rows) * (SIZE + GAP) + GAP), "white")
    flat = [prompt for row in rows for prompt in row]
    seeds = [torch.Generator().manual_seed(seed + index) for index in range(len(flat))]
    pictures = pipe(flat, generator=seeds, **SAMPLING).images
    for index, picture in enumerate(pictures):
        row, column = divmod(index, len(rows[0]))
        sheet.paste(picture, (GAP + column * (SIZE + GAP), GAP + row * (SIZE + GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
