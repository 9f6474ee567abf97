"""Where methods meet: the model, its captions, and one calibration for each seed that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from passes.calibrate.statistics import Statistics
from passes.plan.costs import program_params, site_params
from passes.plan.slim_plan import SlimPlan
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_pipeline
from slimdiff_fx.pipelines.inputs.prompts import read_captions
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import LoadedPipeline, load_pipeline
from slimdiff_fx.saved.summary import summarize


@dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        samples: calibration prompts.
        steps: denoising steps of each: all of the trajectory that is measured on, for statistics know nothing of
            timesteps that they never saw.
        prompts: held-out prompts that the prediction's error is measured on, at `timesteps` of 25 steps.
        timesteps: see there.
        pictures: held-out prompts that are drawn.
        picture_steps: denoising steps of a picture.
    """

    samples: int = 500
    steps: int = 25
    prompts: int = 24
    timesteps: int = 6
    pictures: int = 64
    picture_steps: int = 12


FULL = Scale()
QUICK = Scale(samples=64, steps=5, prompts=12, timesteps=5, pictures=12, picture_steps=8)


@dataclass
class Arena:
    """The model and what is known about it.

    Attributes:
        loaded: the dense pipeline.
        captured: its denoiser.
        train: captions to calibrate on.
        held_out: captions to measure on.
        scale: how much is run.
        cache: whatever a contestant wants to find again, by a key of its own.
    """

    loaded: LoadedPipeline
    captured: CapturedDenoiser
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    scale: Scale
    cache: dict[Any, Any] = field(default_factory=dict)

    def statistics(self, seed: int) -> Statistics:
        """Calibrate with a seed of prompts and noise, once."""
        return self.remember(("statistics", seed), lambda: self.calibrate(self.train, self.scale.samples, seed))

    def calibrate(
        self,
        prompts: tuple[str, ...] | None,
        samples: int,
        seed: int,
        *,
        images: Path | None = None,
        **settings: Any,
    ) -> Statistics:
        """Calibrate on given prompts, or on a folder of captioned pictures."""
        chosen = gather_samples(self.loaded.pipe, prompts=prompts, images=images, samples=samples, seed=seed)
        sampling = self.loaded.sampling.given(self.scale.steps, None)
        run = CalibrationSettings(sampling, seed=seed, **settings)
        return observe_pipeline(self.loaded.pipe, self.captured, chosen, run).statistics

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Look something up, or make it."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def keep_params(self, removed: float) -> float:
        """Turn a share of the sites' weights that goes into a share of the denoiser's that stays."""
        program, sites = self.captured.program, self.captured.sites
        return 1 - removed * sum(site_params(program, site) for site in sites) / program_params(program)


def open_arena(model: str, scale: Scale) -> Arena:
    """Load a pipeline that comes with captions, and capture its denoiser."""
    loaded = load_pipeline(model)
    captions = [read_captions(loaded.folder, split) for split in ("train", "held_out")]
    return Arena(loaded, capture_pipeline(loaded.pipe), captions[0], captions[1], scale)


@dataclass(frozen=True)
class Entry:
    """What a contestant made.

    Attributes:
        model: eager slim denoiser, to stand in the pipeline.
        weights_kept: share of the sites' weights.
        macs_kept: share of the denoiser's multiply-adds.
        predicted: relative squared error that the plan expects; None if the method predicts nothing.
        validation: slim against padded dense, relative.
    """

    model: nn.Module
    weights_kept: float
    macs_kept: float
    predicted: float | None
    validation: float


def enter(arena: Arena, plan: SlimPlan) -> Entry:
    """Carry a plan out, validated."""
    program = arena.captured.program
    report = validate(program, plan, rewrite(program, plan))
    summary = summarize(program, arena.captured.sites, plan)
    return Entry(
        make_slim(arena.captured.model, plan, share=True),
        summary.site_params_kept / summary.site_params,
        summary.macs_kept / summary.macs,
        plan.predicted.get("relative_mse"),
        report.relative_error,
    )
