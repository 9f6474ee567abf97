"""Run the denoiser's instrumented graph inside the real pipeline, on the inputs that sampling really gives it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn

from passes.errors import CalibrationError, SlimDiffError, UsageError
from slimdiff_fx.option_checks import check_count
from slimdiff_fx.other_libraries import quiet_pipeline
from slimdiff_fx.pipelines.inputs.autoencoder import latent_of, picture_factor
from slimdiff_fx.pipelines.inputs.images import CaptionedImage, add_noise, load_picture, stratified_timesteps
from slimdiff_fx.pipelines.inputs.picture_inputs import needs_picture, picture_inputs
from slimdiff_fx.pipelines.sampling import (
    Sampling,
    call_pipeline,
    denoiser_name,
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
        image: its picture, if it has one: what a pipeline that takes pictures is given.
        noised: noise is added to that picture; otherwise the denoising trajectory is followed from pure noise.
    """

    number: int
    condition: str
    image: CaptionedImage | None = None
    noised: bool = True

    @property
    def from_picture(self) -> bool:
        """Whether the denoiser's input is the picture with noise added."""
        return self.image is not None and self.noised


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
        samples: all with noise added to a picture, or all without.
        sampling: steps and guidance.
        seed: of noise, of the timesteps for pictures, and of the choice of steps.
        observe_steps: how many of the steps to observe; None observes all. The choice is the same in each batch.
        advance: told after each denoiser call how many samples have gone one step further.

    Raises:
        CalibrationError: the pipeline failed, or an activation isn't finite.
    """
    denoiser = getattr(pipe, denoiser_name(pipe))
    generators = [noise_generator(seed, sample.number) for sample in samples]
    plain = denoiser.forward
    watched: frozenset[int] | None = None
    position = 0
    pictures = NoisyPictures(pipe, samples, seed) if samples[0].from_picture else None

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
            prediction = pictures.no_prediction  # neither observed nor needed: each step has noise of its own
        else:
            prediction = plain(*args, **{**kwargs, "return_dict": False})[0]
        position += 1
        advance(len(samples))
        if position > max(watched):
            raise _EnoughSeen
        return (prediction,) if kwargs.get("return_dict") is False else DenoiserOutput(prediction)

    try:
        with quiet_pipeline(pipe), in_place_of(denoiser, forward):
            conditions = [sample.condition for sample in samples]
            given = given_pictures(pipe, samples)
            call_pipeline(pipe, conditions, generators, sampling, output_type="latent", extra=given)
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
    check_count("observe_steps", observe)
    if observe is None or observe >= steps:
        return frozenset(range(steps))
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


def given_pictures(pipe: DiffusionPipeline, samples: Sequence[Sample]) -> dict[str, Any]:
    """Give the arguments of a call that the samples' pictures go into; none where the pipeline takes no pictures.

    Raises:
        UsageError: the pipeline needs pictures, and a sample has none.
    """
    if not needs_picture(pipe):
        return {}
    files = [sample.image.file for sample in samples if sample.image is not None]
    if len(files) < len(samples):
        raise UsageError(f"{type(pipe).__name__} needs pictures to calibrate on; give `images`")
    return picture_inputs(pipe, files)


class NoisyPictures:
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
        # Behind self; the first is what is denoised, whatever the model calls it.
        self._names = list(inspect.signature(type(getattr(pipe, denoiser_name(pipe))).forward).parameters)[1:]
        self.no_prediction = torch.empty(0)

    def put_in(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], position: int, steps: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace sample and timestep in the denoiser's arguments; channels beyond the latents' stay."""
        given = dict(zip(self._names, args, strict=False)) | kwargs
        sample: Tensor = given[self._names[0]]
        if self._latents is None or self._timesteps is None:
            self._latents = self.encode(sample)
            drawn = [stratified_timesteps(steps, len(self._alphas_cumprod), each) for each in self._generators]
            self._timesteps = torch.stack(drawn)
        latents, timesteps = self._latents, self._timesteps[:, position]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in self._generators])
        noisy = add_noise(latents, noise.to(latents), self._alphas_cumprod, timesteps)
        copies = sample.shape[0] // len(self._samples)  # 2 with guidance, 3 where it is by text and by picture
        rows = noisy.repeat(copies, 1, 1, 1).to(sample)
        given[self._names[0]] = torch.cat([rows, sample[:, rows.shape[1] :]], dim=1)
        given["timestep"] = timesteps.repeat(copies).to(sample.device)
        config = getattr(self._pipe, denoiser_name(self._pipe)).config
        channels = getattr(config, "out_channels", None) or sample.shape[1]
        self.no_prediction = sample.new_zeros(sample.shape[0], channels, *sample.shape[2:])
        positional = self._names[: len(args)]
        return tuple(given.pop(name) for name in positional), given

    def encode(self, sample: Tensor) -> Tensor:
        """Give the pictures' latents, at the size of the denoiser's sample.

        Raises:
            UsageError: they don't fit into it.
        """
        factor = picture_factor(self._pipe)
        height, width = sample.shape[-2] * factor, sample.shape[-1] * factor
        files = [sample.image.file for sample in self._samples if sample.image is not None]
        pictures = torch.stack([load_picture(file, height, width) for file in files])
        latents = latent_of(self._pipe, pictures.to(sample))
        if latents.shape[2:] != sample.shape[2:] or latents.shape[1] > sample.shape[1]:
            raise UsageError(
                f"pictures of {height} by {width} become latents of {list(latents.shape[1:])}, and the denoiser takes "
                f'{list(sample.shape[1:])}; give `calibrate_on="trajectory"`'
            )
        return latents


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
