"""Call a pipeline up to its denoiser, before anything slow is done: whatever it refuses, it refuses now."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from passes.errors import SlimDiffError, UsageError
from slimdiff_fx.calibration.disk_sums import sums_in
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.denoisers.altered import refuse_altered
from slimdiff_fx.other_libraries import first_line, quiet_pipeline
from slimdiff_fx.pipelines.sampling import Sampling, call_pipeline, denoiser_name, noise_generator
from slimdiff_fx.pipelines.trajectory import NoisyPictures, Sample, given_pictures, in_place_of

# Rows of the rehearsed call: what depends on the batch shows at two.
_ROWS = 2
_INSTEAD = 'give `calibrate_on="trajectory"`'


@dataclass(frozen=True)
class FirstCall:
    """What the pipeline gives its denoiser at first.

    Attributes:
        sample: what is denoised.
        timestep: its timestep.
    """

    sample: Tensor
    timestep: Any


class _Reached(Exception):
    """Leaves the pipeline at its denoiser."""


def rehearse(pipe: DiffusionPipeline, samples: Sequence[Sample], settings: CalibrationSettings) -> None:
    """Let the pipeline prepare a call of its denoiser as calibration will, and stop it there.

    Args:
        pipe: the pipeline; it is as before when this returns or raises, but for its scheduler's timesteps.
        samples: the calibration set; its first are taken.
        settings: how to calibrate.

    Raises:
        UsageError: the pipeline can't be called with these settings; or noise can't be added to pictures for it.
        CheckpointError: second moments can't be kept where they should be.
    """
    if settings.moments and settings.moments_folder is not None:
        sums_in(settings.moments_folder)
    few, sampling, seed = samples[:_ROWS], settings.sampling, settings.seed
    if few[0].from_picture:
        _check_schedule(pipe)
    call = first_call(pipe, few, sampling, seed)
    if few[0].from_picture:
        _check_noising(pipe, few, sampling, seed, call)


def first_call(pipe: DiffusionPipeline, samples: Sequence[Sample], sampling: Sampling, seed: int) -> FirstCall:
    """Give what the pipeline calls its denoiser with at first.

    Raises:
        UsageError: it doesn't come so far; says why in the pipeline's words.
    """
    names = list(inspect.signature(type(getattr(pipe, denoiser_name(pipe))).forward).parameters)[1:]
    found: list[FirstCall] = []

    def forward(*args: Any, **kwargs: Any) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        found.append(FirstCall(given[names[0]].clone(), given.get("timestep")))

    at_first_call(pipe, samples, sampling, seed, forward)
    return found[0]


def at_first_call(
    pipe: DiffusionPipeline, samples: Sequence[Sample], sampling: Sampling, seed: int, forward: Callable[..., None]
) -> None:
    """Let a pipeline come to its denoiser, give what it calls it with to `forward`, and leave it there.

    Args:
        pipe: the pipeline; it is as before when this returns or raises, but for its scheduler's timesteps.
        samples: the batch.
        sampling: steps and guidance.
        seed: of the noise.
        forward: stands in the denoiser's place; what it raises of slimdiff_fx's own errors is raised.

    Raises:
        UsageError: the pipeline doesn't come so far; says why in the pipeline's words.
    """
    denoiser = getattr(pipe, denoiser_name(pipe))
    reached = False

    def once(*args: Any, **kwargs: Any) -> None:
        nonlocal reached
        reached = True
        forward(*args, **kwargs)
        raise _Reached

    generators = [noise_generator(seed, sample.number) for sample in samples]
    conditions = [sample.condition for sample in samples]
    extra = given_pictures(pipe, samples)
    try:
        with quiet_pipeline(pipe), in_place_of(denoiser, once):
            call_pipeline(pipe, conditions, generators, sampling, output_type="latent", extra=extra)
    except _Reached:
        pass
    except SlimDiffError:
        raise
    except Exception as error:
        refuse_altered(denoiser)  # the cause may be a hook or an adapter on the denoiser
        raise UsageError(
            f"{type(pipe).__name__} can't be called with these settings ({type(error).__name__}: {first_line(error)})"
        ) from error
    if not reached:
        raise UsageError(f"{type(pipe).__name__} never calls its {denoiser_name(pipe)}; there is nothing to watch")


def _check_schedule(pipe: DiffusionPipeline) -> None:
    """Refuse to add noise to pictures by a schedule of another kind than √ᾱ·x + √(1−ᾱ)·ε."""
    scheduler = pipe.scheduler
    if not hasattr(scheduler, "alphas_cumprod") or getattr(scheduler.config, "use_flow_sigmas", False):
        raise UsageError(f"noise of {type(scheduler).__name__}'s schedule can't be added to pictures; {_INSTEAD}")


def _check_noising(
    pipe: DiffusionPipeline, samples: Sequence[Sample], sampling: Sampling, seed: int, call: FirstCall
) -> None:
    """Refuse to add noise to pictures where that isn't what the denoiser is given when it draws.

    Raises:
        UsageError: the timestep is none of the schedule's, or the latents don't come first among the channels.
    """
    name = type(pipe).__name__
    timestep = torch.as_tensor(call.timestep).flatten()[:1].double().cpu()
    known = torch.as_tensor(pipe.scheduler.timesteps).double().cpu()
    if not bool(((known - timestep).abs() < 1e-3).any()):
        raise UsageError(
            f"{name} gives its denoiser {float(timestep):g} for a timestep, which is none of the schedule's; {_INSTEAD}"
        )
    channels = NoisyPictures(pipe, samples, seed).encode(call.sample).shape[1]
    other = first_call(pipe, samples, sampling, seed + 1).sample
    random = (call.sample != other).flatten(2).any(2).any(0)
    if not bool(random[:channels].all()):
        raise UsageError(f"{name}'s latents are not the first channels of what its denoiser is given; {_INSTEAD}")
