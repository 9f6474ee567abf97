"""Calibrate a captured denoiser through its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

from passes.calibrate.instrument import TIMESTEPS, Instrumented, instrument
from passes.solve.settled import SETTLED, split_half_ratio
from slimdiff_fx.calibration.checkpoint import finished_samples
from slimdiff_fx.calibration.disk_sums import sums_in
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.run import calibrate_pipeline
from slimdiff_fx.calibration.shares import Share
from slimdiff_fx.denoisers.call import translate_call
from slimdiff_fx.files.statistics_file import StoredStatistics
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.pipelines.captured import CapturedDenoiser
from slimdiff_fx.pipelines.trajectory import Observed, Sample, observed_steps


def watch_pipeline(
    pipe: DiffusionPipeline, captured: CapturedDenoiser, settings: CalibrationSettings
) -> tuple[Instrumented, Observed]:
    """Put observers into a captured denoiser, and give it also as a function of the denoiser's own arguments."""
    timesteps = float(getattr(pipe.scheduler.config, "num_train_timesteps", TIMESTEPS))
    instrumented = instrument(
        captured.program,
        captured.sites,
        timesteps=timesteps,
        attention_weights=settings.attention_weights,
        moments=settings.moments,
        weights=settings.timestep_weights,
        storage=sums_in(settings.moments_folder) if settings.moments_folder is not None else None,
    )

    def observed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        program_args, program_kwargs = translate_call(captured.inputs, args, kwargs)
        return instrumented(*program_args, **program_kwargs)

    return instrumented, observed


def observe_pipeline(
    pipe: DiffusionPipeline,
    captured: CapturedDenoiser,
    samples: Sequence[Sample],
    settings: CalibrationSettings,
    listener: Listener = SILENT,
) -> StoredStatistics:
    """Calibrate a captured denoiser through its pipeline; with `settings.ranks`, each rank has to call this."""
    instrumented, observed = watch_pipeline(pipe, captured, settings)
    ranks = settings.ranks
    steps = observed_steps(pipe, settings.sampling, settings.observe_steps, settings.seed)
    share = Share(len(samples), settings.batch, ranks.rank, ranks.world)
    done = finished_samples(settings.checkpoint, ranks) if settings.resume else 0
    calls = max(steps) + 1
    idle = ranks.world - len(range(0, len(samples), settings.batch))
    if ranks.several and idle > 0:
        listener.note(f"{idle} of {ranks.world} ranks have no batch to run; give a smaller `batch`")
    with listener.steps("calibrate", calls * share.total, calls * done, "samples", calls):
        stored = calibrate_pipeline(pipe, instrumented, observed, samples, settings, listener.advance)
    if settings.moments and ranks.rank == 0:
        parameters = dict(captured.program.graph_module.named_parameters())
        ratio = split_half_ratio(captured.sites, stored.statistics, parameters)
        if ratio is None:
            listener.note("one batch is too little to see whether the statistics have settled; give more `samples`")
        elif ratio > SETTLED:
            listener.note(
                f"the statistics have not settled: weights from one half of the samples have {ratio:.1f} times "
                "the error on the other half; more `samples`, of more kinds, will help"
            )
    return stored
