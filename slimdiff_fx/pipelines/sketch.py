"""A picture drawn with a stand-in for the denoiser: what shows is what all the other components do."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from passes.program.torch_private import tree_leaves
from slimdiff_fx.other_libraries import quiet_pipeline
from slimdiff_fx.pipelines.inputs.picture_inputs import needs_picture
from slimdiff_fx.pipelines.sampling import (
    Sampling,
    call_parameters,
    call_pipeline,
    condition,
    denoiser_name,
    noise_generator,
    step_count,
)
from slimdiff_fx.pipelines.trajectory import DenoiserOutput, in_place_of

_CONDITION = {"prompt": "a small red house", "class_labels": "1", "nothing": ""}
_STEPS = 2
_SIDE = 8  # of latents
_WAVES = 100.0  # so that small changes of what the denoiser is given turn the stand-in's waves


def sketch(pipe: DiffusionPipeline) -> Tensor | None:
    """Draw one small picture in two steps; float [1, height, width, channels], 0 to 1.

    The stand-in's prediction hangs on every element of everything that the denoiser is given. Text encoders, scheduler
    and autoencoder show in the picture, and two pipelines that differ in one of them draw two pictures.

    Args:
        pipe: as before when this returns; of its scheduler a copy is used.

    Returns:
        The picture; None where the pipeline needs more than a prompt or a label to draw.
    """
    if needs_picture(pipe):
        return None
    drawing = copy.copy(pipe)
    drawing.register_modules(scheduler=copy.deepcopy(pipe.scheduler))
    denoiser = getattr(pipe, denoiser_name(pipe))
    channels = int(denoiser.config.out_channels)

    def forward(*args: Any, **kwargs: Any) -> Any:
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        sample = (dict(zip(names, args, strict=False)) | kwargs)[names[0]]
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        shift = torch.stack([_projection(leaf) for leaf in leaves]).sum()
        mixed = sample[:, torch.arange(channels, device=sample.device) % sample.shape[1]]
        waves = torch.sin(_WAVES * shift + torch.arange(mixed.numel(), dtype=torch.float64)).view(mixed.shape)
        prediction = (0.5 * mixed.float() + 0.5 * waves.to(mixed.device).float()).to(sample.dtype)
        return (prediction,) if kwargs.get("return_dict") is False else DenoiserOutput(prediction)

    parameters = call_parameters(pipe)
    extra: dict[str, Any] = {}
    if {"height", "width"} <= parameters.keys():
        side = _SIDE * int(getattr(pipe, "vae_scale_factor", 8))
        extra = {"height": side, "width": side}
    sampling = Sampling(min(_STEPS, step_count(pipe, Sampling())), None)
    try:
        with quiet_pipeline(drawing), in_place_of(denoiser, forward):
            drawn = call_pipeline(
                drawing,
                [_CONDITION[condition(pipe)]],
                [noise_generator(0, 0)],
                sampling,
                output_type="np",
                extra=extra,
            )
    except Exception:  # a custom pipeline that needs arguments which can't be guessed
        return None
    return torch.as_tensor(drawn).float()


def _projection(values: Tensor) -> Tensor:
    """Give one number that hangs on each of a tensor's values and on its place."""
    flat = values.detach().flatten().double().cpu()
    waves = torch.cos(torch.arange(len(flat), dtype=torch.float64))
    result: Tensor = torch.dot(flat, waves) / max(len(flat), 1) ** 0.5
    return result
