"""Refuse pipelines that can't be calibrated, by what their calls require: before anything is captured."""

from __future__ import annotations

import inspect

from diffusers import DiffusionPipeline

from passes.errors import UsageError
from slimdiff_fx.denoisers.residuals import pipeline_residuals
from slimdiff_fx.pipelines.inputs.picture_inputs import MASK, PICTURE
from slimdiff_fx.pipelines.sampling import call_parameters, denoiser_name

# What calibration has to give.
_GIVEN = ("self", "prompt", "class_labels", "batch_size", PICTURE, MASK, "generator", "num_inference_steps")


def refuse_pipeline(pipe: DiffusionPipeline) -> None:
    """Refuse a pipeline whose call requires something that prompts, labels and pictures don't give.

    Raises:
        UsageError: names what it requires, and the pipeline to slim instead.
    """
    if pipeline_residuals(pipe):
        raise UsageError(
            f"{type(pipe).__name__} wants a control picture for each prompt, and calibration has none; slim the unet "
            "in the pipeline without it, and pass the slim one on: from_pipe(..., unet=slim.unet, controlnet=...)"
        )
    required = [
        name
        for name, parameter in call_parameters(pipe).items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and name not in _GIVEN
    ]
    if required:
        instead = text_to_image_instead(pipe) or "; slim its denoiser in a pipeline that takes prompts alone"
        raise UsageError(
            f"{type(pipe).__name__} must be called with {', '.join(required)}, which calibration doesn't have{instead}"
        )


def text_to_image_instead(pipe: DiffusionPipeline) -> str:
    """Say which pipeline takes prompts alone; nothing where the denoiser is given more than latents."""
    own = getattr(getattr(pipe, "vae", None), "config", None)
    denoiser = getattr(pipe, denoiser_name(pipe)).config
    if "prompt" not in call_parameters(pipe) or own is None or own.latent_channels != denoiser.in_channels:
        return ""
    return (
        "; or slim AutoPipelineForText2Image.from_pipe(pipe), which needs none, and give this pipeline its slim "
        f"{denoiser_name(pipe)}"
    )
