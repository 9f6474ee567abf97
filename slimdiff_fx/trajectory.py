"""Run the denoiser's instrumented graph inside the real pipeline, on the inputs that sampling really gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from passes.errors import CalibrationError, SlimDiffError, UsageError
from slimdiff_fx.images import CaptionedImage, add_noise, load_picture, stratified_timesteps
from slimdiff_fx.quiet import quiet_pipeline
from slimdiff_fx.sampling import (
    Sampling,
    call_pipeline,
    denoiser_name,
    is_inpainting,
    latent_of,
    noise_generator,
    step_count,
)

# Runs the observed graph on the arguments of a denoiser call, and gives the prediction.
Observed = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Sample:
    """One calibration sample.

    Attributes:
        number: its place in the calibration set; with the seed it fixes the sample's noise, whatever its batch.
        condition: prompt or class label.
        image: the picture to add noise to; None follows the denoising trajectory from pure noise.
    """

    number: int
    condition: str
    image: CaptionedImage | None = None


class _EnoughSeen(Exception):
    """Leaves the pipeline once the last step that is to be observed has run."""


def observe_batch(
    pipe: DiffusionPipeline,
    observed: Observed,
    samples: Sequence[Sample],
    sampling: Sampling,
    *,
    seed: int,
    observe_steps: int | None = None,
    advance: Advance = lambda rows: None,
) -> None:
    """Send one batch through the pipeline with the observed graph in the denoiser's place.

    The pipeline itself prepares latents, embeddings, guidance and scheduler, so the statistics are those of its use.

    Args:
        pipe: the pipeline; it is as before when this returns or raises.
        observed: the instrumented graph, callable with the denoiser's own arguments.
        samples: all with a picture, or all without.
        sampling: steps and guidance.
        seed: of noise, of the timesteps for pictures, and of the choice of steps.
        observe_steps: how many of the steps to observe; None observes all. The choice is the same in each batch.
        advance: told after each denoiser call how many samples have gone one step further.

    Raises:
        CalibrationError: the pipeline failed, or an activation isn't finite.
    """
    denoiser = getattr(pipe, denoiser_name(pipe))
    generators = [noise_generator(seed, sample.number) for sample in samples]
    with_images = samples[0].image is not None
    if is_inpainting(pipe) and not with_images:
        raise UsageError("an inpainting pipeline needs pictures to calibrate on; give --images DIR")
    plain = denoiser.forward
    watched: frozenset[int] | None = None
    position = 0
    pictures = _NoisyPictures(pipe, samples, seed) if with_images else None

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal position, watched
        steps = len(pipe.scheduler.timesteps)
        if watched is None:
            watched = chosen_steps(steps, observe_steps, seed)
        if pictures is not None:
            args, kwargs = pictures.put_in(args, kwargs, position, steps)
        if position in watched:
            prediction = observed(args, kwargs)
        elif pictures is not None:
            prediction = torch.zeros_like(
                args[0]
            )  # neither observed nor needed: pictures don't depend on earlier steps
        else:
            prediction = plain(*args, **{**kwargs, "return_dict": False})[0]
        position += 1
        advance(len(samples))
        if position > max(watched):
            raise _EnoughSeen
        return (prediction,) if kwargs.get("return_dict") is False else DenoiserOutput(prediction)

    extra = _inpainting_inputs(pipe, samples) if is_inpainting(pipe) else None
    try:
        with quiet_pipeline(pipe), in_place_of(denoiser, forward):
            conditions = [sample.condition for sample in samples]
            call_pipeline(pipe, conditions, generators, sampling, output_type="latent", extra=extra)
    except _EnoughSeen:
        pass
    except SlimDiffError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise CalibrationError(
            f"{type(pipe).__name__} failed while calibrating on sample {samples[0].number} "
            f"({type(error).__name__}: {first}); see that the pipeline draws with these settings"
        ) from error


def chosen_steps(steps: int, observe: int | None, seed: int) -> frozenset[int]:
    """Choose which steps of a trajectory to observe: one from each of `observe` equal parts, by the seed.

    Raises:
        UsageError: `observe` is below 1.
    """
    if observe is None or observe >= steps:
        return frozenset(range(steps))
    if observe < 1:
        raise UsageError(f"--observe-steps is {observe}; give at least 1")
    generator = torch.Generator().manual_seed(seed)
    return frozenset(stratified_timesteps(observe, steps, generator).tolist())


def observed_steps(pipe: DiffusionPipeline, sampling: Sampling, observe: int | None, seed: int) -> frozenset[int]:
    """Say which of the denoiser calls that a sample takes are observed; it leaves the pipeline after the last."""
    pipe.scheduler.set_timesteps(step_count(pipe, sampling))
    return chosen_steps(len(pipe.scheduler.timesteps), observe, seed)


class DenoiserOutput:
    """A denoiser's output for pipelines that read `.sample`."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample

    def __getitem__(self, index: int) -> Tensor:
        return (self.sample,)[index]


class _NoisyPictures:
    """Puts noisy pictures in the place of the pipeline's latents, step after step, at stratified timesteps."""

    def __init__(self, pipe: DiffusionPipeline, samples: Sequence[Sample], seed: int) -> None:
        self._pipe = pipe
        self._samples = samples
        # Own streams: the pipeline draws from the other generators before the first step.
        self._generators = [noise_generator(seed + 1, sample.number) for sample in samples]
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self._alphas_cumprod: Tensor = scheduler.alphas_cumprod
        self._latents: Tensor | None = None
        self._timesteps: Tensor | None = None

    def put_in(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], position: int, steps: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace sample and timestep in the denoiser's arguments; channels beyond the latents' stay."""
        kwargs = dict(kwargs)
        sample: Tensor = args[0] if args else kwargs.pop("hidden_states", kwargs.pop("sample", None))
        if self._latents is None or self._timesteps is None:
            self._latents = self._encode(sample)
            drawn = [stratified_timesteps(steps, len(self._alphas_cumprod), each) for each in self._generators]
            self._timesteps = torch.stack(drawn)
        latents, timesteps = self._latents, self._timesteps[:, position]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in self._generators])
        noisy = add_noise(latents, noise.to(latents), self._alphas_cumprod, timesteps)
        copies = sample.shape[0] // len(self._samples)  # 2 with guidance: unconditional and conditional
        rows = noisy.repeat(copies, 1, 1, 1).to(sample)
        timestep = timesteps.repeat(copies).to(sample.device)
        rest = args[2:]
        kwargs.pop("timestep", None)
        return (torch.cat([rows, sample[:, rows.shape[1] :]], dim=1), timestep, *rest), kwargs

    def _encode(self, sample: Tensor) -> Tensor:
        factor = self._pipe.vae_scale_factor if getattr(self._pipe, "vae", None) is not None else 1
        height, width = sample.shape[-2] * factor, sample.shape[-1] * factor
        files = [sample.image.file for sample in self._samples if sample.image is not None]
        pictures = torch.stack([load_picture(file, height, width) for file in files])
        return latent_of(self._pipe, pictures.to(sample))


def _inpainting_inputs(pipe: DiffusionPipeline, samples: Sequence[Sample]) -> dict[str, Any]:
    denoiser = getattr(pipe, denoiser_name(pipe))
    side = denoiser.config.sample_size * pipe.vae_scale_factor
    files = [sample.image.file for sample in samples if sample.image is not None]
    pictures = torch.stack([load_picture(file, side, side) for file in files])
    masks = torch.zeros(len(samples), 1, side, side)
    masks[:, :, side // 4 : side - side // 4, side // 4 : side - side // 4] = 1.0
    return {"image": pictures, "mask_image": masks, "height": side, "width": side, "strength": 1.0}


@contextmanager
def in_place_of(denoiser: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let another function stand for a denoiser's forward, for the duration of a block."""
    before = denoiser.__dict__.get("forward")
    denoiser.forward = forward
    try:
        yield
    finally:
        if before is None:
            del denoiser.forward
        else:
            denoiser.forward = before
