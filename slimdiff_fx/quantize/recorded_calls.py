"""Record what a pipeline gives its denoiser while it draws: the calibration data of quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from passes.calibrate.calibrate import Batch
from passes.errors import CalibrationError
from passes.program.torch_private import tree_leaves
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.denoisers.call import translate_call
from slimdiff_fx.denoisers.families import DenoiserInputs
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.pipelines.trajectory import Sample, observe_batch


def record_calls(
    pipe: DiffusionPipeline, inputs: DenoiserInputs, samples: Sequence[Sample], settings: CalibrationSettings
) -> list[Batch]:
    """Draw the samples and keep what the denoiser was called with, at the steps that calibration would observe.

    These are the inputs that `slimdiff_fx.calibration.run.calibrate_pipeline` shows to observers, of the same samples
    and seeds: guidance's rows are among them. Each call takes memory as its latents and texts do; `observe_steps`
    and the number of samples bound their number.

    Args:
        pipe: the pipeline; it draws with its own denoiser and is as before when this returns.
        inputs: how the denoiser was captured, see `slimdiff_fx.denoisers.families.describe`.
        samples: what to draw, see `slimdiff_fx.pipelines.inputs.samples.gather_samples`.
        settings: sampling, seed, batch and observed steps; the rest is not used.

    Returns:
        Positional and keyword arguments of the captured program, call by call.

    Raises:
        CalibrationError: no samples, or the pipeline failed.
        UsageError: the pipeline gives the denoiser something that the program doesn't take.
    """
    if not samples:
        raise CalibrationError("there is nothing to calibrate on; give prompts or pictures")
    plain = getattr(pipe, denoiser_name(pipe)).forward
    calls: list[Batch] = []

    def recorded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        calls.append(translate_call(inputs, args, kwargs))
        prediction: Tensor = plain(*args, **{**kwargs, "return_dict": False})[0]
        return prediction

    for start in range(0, len(samples), settings.batch):
        batch = samples[start : start + settings.batch]
        observe_batch(
            pipe, recorded, batch, settings.sampling, seed=settings.seed, observe_steps=settings.observe_steps
        )
    return calls


def flat_calls(calls: Sequence[Batch]) -> list[list[Tensor]]:
    """Give each call as one tensor for each input of the program, as runtimes take them."""
    return [[torch.as_tensor(leaf).detach() for leaf in tree_leaves((args, dict(kwargs)))] for args, kwargs in calls]
