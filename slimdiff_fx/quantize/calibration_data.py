"""Draw what a quantizer calibrates on, and what its result is compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passes.calibrate.calibrate import Batch
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.rehearse import rehearse
from slimdiff_fx.pipelines.captured import CapturedDenoiser
from slimdiff_fx.pipelines.inputs.prompts import read_captions
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import LoadedPipeline
from slimdiff_fx.quantize.recorded_calls import record_calls

# Ranges differ from step to step much more than from prompt to prompt: few prompts, all of their steps.
SAMPLES, BATCH = 8, 8
HELD_OUT, HELD_OUT_STEPS = 4, 8


@dataclass(frozen=True)
class QuantizationSettings:
    """What to calibrate a quantizer on.

    Attributes:
        prompts: texts; None takes the captions that came with the pipeline.
        images: folder of pictures with captions, in place of prompts.
        samples: how many of them.
        steps: denoising steps of a sample; None for the pipeline's default.
        seed: of the choice and of the noise.
    """

    prompts: Sequence[str] | None = None
    images: Path | None = None
    samples: int = SAMPLES
    steps: int | None = None
    seed: int = 0


def check_calibration(loaded: LoadedPipeline, settings: QuantizationSettings) -> None:
    """Refuse what can't be drawn, before the denoiser is captured.

    Raises:
        UsageError: there is nothing to calibrate on, or the pipeline can't be called with these settings.
    """
    samples = gather_samples(
        loaded.pipe,
        prompts=settings.prompts,
        images=settings.images,
        samples=settings.samples,
        seed=settings.seed,
        folder=loaded.folder,
    )
    rehearse(loaded.pipe, samples, CalibrationSettings(loaded.sampling.given(settings.steps, None), seed=settings.seed))


def record_calibration(
    loaded: LoadedPipeline, captured: CapturedDenoiser, settings: QuantizationSettings
) -> list[Batch]:
    """Draw the samples, and give every call of the denoiser.

    Raises:
        UsageError: there is nothing to calibrate on.
        CalibrationError: the pipeline failed.
    """
    samples = gather_samples(
        loaded.pipe,
        prompts=settings.prompts,
        images=settings.images,
        samples=settings.samples,
        seed=settings.seed,
        folder=loaded.folder,
    )
    run = CalibrationSettings(loaded.sampling.given(settings.steps, None), seed=settings.seed, batch=BATCH)
    return record_calls(loaded.pipe, captured.inputs, samples, run)


def record_held_out(loaded: LoadedPipeline, captured: CapturedDenoiser, settings: QuantizationSettings) -> list[Batch]:
    """Draw other samples, and give the denoiser's calls at a few steps.

    Their prompts are the held-out captions where the pipeline brings such; the same prompts from other noise otherwise.

    Raises:
        UsageError: there is nothing to draw.
        CalibrationError: the pipeline failed.
    """
    seed = settings.seed + 1
    held_out = read_captions(loaded.folder, "held_out")
    samples = gather_samples(
        loaded.pipe,
        prompts=held_out or settings.prompts,
        images=None if held_out else settings.images,
        samples=HELD_OUT,
        seed=seed,
        folder=loaded.folder,
    )
    run = CalibrationSettings(loaded.sampling.given(settings.steps, None), HELD_OUT_STEPS, seed, BATCH)
    return record_calls(loaded.pipe, captured.inputs, samples, run)
