"""Draw with dense and slim from the same noise, and measure how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from slimdiff_fx.pipelines.inputs.picture_inputs import needs_picture, picture_inputs
from slimdiff_fx.pipelines.inputs.prompts import read_captions
from slimdiff_fx.pipelines.inputs.samples import one_round
from slimdiff_fx.pipelines.load import LoadedPipeline
from slimdiff_fx.pipelines.prediction_error import measured_error
from slimdiff_fx.pipelines.sampling import Given, Sampling, condition, draw, nothing_more
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.saved.pictures import Comparison, mean_psnr, pick_conditions, png_bytes
from slimdiff_fx.saved.slimmed import Slimmed

PICTURE_FILE = "dense_and_slim.png"
PICTURE_FOLDER = "pictures"


def compare(
    loaded: LoadedPipeline,
    result: Slimmed,
    prompts: Sequence[str] | None,
    count: int,
    sampling: Sampling,
    seed: int,
    samples: Sequence[Sample] = (),
) -> Comparison | None:
    """Draw some prompts with both, on prompts that were not calibrated on where the pipeline brings such.

    Args:
        loaded: the dense pipeline.
        result: the slim one.
        prompts: what was calibrated on, if it was given.
        count: pictures.
        sampling: steps and guidance.
        seed: of the noise.
        samples: what was calibrated on; a pipeline that takes pictures draws on some of theirs.

    Returns:
        The pictures and the prediction's error on the way; None if there is nothing to draw.
    """
    given: Given = nothing_more
    if needs_picture(loaded.pipe):
        pairs = [(sample.condition, sample.image.file) for sample in one_round(samples) if sample.image is not None]
        picked = pick_conditions(pairs, count)
        steered = condition(loaded.pipe) != "nothing"
        conditions = tuple(caption if steered else file.name for caption, file in picked)
        given = partial(_pictures_of, loaded.pipe, [file for _, file in picked])
    else:
        known = read_captions(loaded.folder, "held_out") or prompts
        if known is None and result.statistics is not None:
            known = result.statistics.settings["conditions"]
        conditions = pick_conditions(known or (), count)
    if not conditions or result.pipe is None:
        return None
    with measured_error(loaded.pipe, result.model) as error:
        dense = draw(loaded.pipe, conditions, seed, sampling, given=given)
    slim = draw(result.pipe, conditions, seed, sampling, given=given)
    return Comparison(conditions, tuple(dense), tuple(slim), error.relative_mse, given)


def _pictures_of(pipe: DiffusionPipeline, files: Sequence[Path], rows: slice) -> Mapping[str, Any]:
    return picture_inputs(pipe, files[rows])


def report_entries(comparison: Comparison | None, seed: int) -> dict[str, Any]:
    """Put what was measured into JSON values, for the report."""
    if comparison is None:
        return {"measured": None, "pictures": None}
    return {
        "measured": {"relative_mse": comparison.relative_mse, "prompts": len(comparison.conditions)},
        "pictures": {
            "file": PICTURE_FILE,
            "folder": PICTURE_FOLDER,
            "seed": seed,
            "conditions": list(comparison.conditions),
            "psnr_db": [_json(value) for value in comparison.psnr()],
            "mean_psnr_db": _json(mean_psnr(comparison.psnr())),
        },
    }


def _json(decibels: float) -> float | None:
    # JSON has no infinity.
    return None if math.isinf(decibels) else round(decibels, 2)


def picture_files(comparison: Comparison) -> dict[str, bytes]:
    """Give every picture by itself, as PNG by the name that it has in the saved folder, in the order of the prompts."""
    pairs = enumerate(zip(comparison.dense, comparison.slim, strict=True))
    return {
        f"{PICTURE_FOLDER}/{number:02}-{word}.png": png_bytes(picture)
        for number, pair in pairs
        for word, picture in zip(("dense", "slim"), pair, strict=True)
    }
