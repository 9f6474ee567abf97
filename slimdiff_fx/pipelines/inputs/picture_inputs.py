"""What a pipeline that edits, fills in or enlarges pictures is given, besides prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from slimdiff_fx.pipelines.inputs.autoencoder import picture_factor
from slimdiff_fx.pipelines.inputs.images import open_picture
from slimdiff_fx.pipelines.sampling import call_parameters, denoiser_name

PICTURE, MASK = "image", "mask_image"
_SIZE = 64  # of latents, where the model doesn't say


def needs_picture(pipe: DiffusionPipeline) -> bool:
    """Say whether each call of the pipeline must be given a picture."""
    return PICTURE in call_parameters(pipe)


def latent_size(pipe: DiffusionPipeline) -> tuple[int, int]:
    """Give height and width of the latents that the denoiser was made for."""
    size = getattr(pipe, denoiser_name(pipe)).config.sample_size or _SIZE
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def picture_inputs(pipe: DiffusionPipeline, files: Sequence[Path]) -> dict[str, Any]:
    """Make the arguments of a call that pictures go into, at the denoiser's own size.

    Noise starts at its full strength, so that every step of the schedule is run. Where a mask is asked for, it is the
    middle quarter.

    Args:
        pipe: a pipeline that needs pictures.
        files: one for each sample.

    Raises:
        UsageError: a file is no picture.
    """
    parameters = call_parameters(pipe)
    height, width = latent_size(pipe)
    # What is enlarged comes at the size of the latents: such pipelines take a noise level, and no size.
    if "noise_level" not in parameters or "height" in parameters:
        factor = picture_factor(pipe)
        height, width = height * factor, width * factor
    given: dict[str, Any] = {PICTURE: [open_picture(file, height, width) for file in files]}
    if MASK in parameters:
        mask = Image.new("L", (width, height))
        mask.paste(255, (width // 4, height // 4, width - width // 4, height - height // 4))
        given[MASK] = [mask] * len(files)
    further = {"height": height, "width": width, "strength": 1.0}
    return given | {name: value for name, value in further.items() if name in parameters}
