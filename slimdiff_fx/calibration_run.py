"""Calibrate through the pipeline, batch after batch, so that it can be stopped and resumed to the same bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from passes.errors import CalibrationError, CheckpointError, UsageError
from passes.instrument import Instrumented
from passes.statistics import Statistics
from slimdiff_fx.sampling import Sampling, step_count
from slimdiff_fx.statistics_file import StoredStatistics, load_statistics, save_statistics
from slimdiff_fx.trajectory import Advance, Observed, Sample, observe_batch

# Seconds between checkpoints: a kill loses at most this much, Ctrl-C nothing but the batch that runs.
_CHECKPOINT_EVERY = 20.0
# Where a checkpoint is gigabytes, time between two of them is a multiple of what writing one takes.
_CHECKPOINT_SHARE = 20


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        sampling: steps and guidance.
        observe_steps: steps of each trajectory to observe; None for all.
        seed: of noise, choice of prompts, steps and timesteps.
        batch: samples a pipeline call.
        checkpoint: file to keep the state in while running; None keeps none.
        resume: continue from `checkpoint`.
        moments: take second moments; every method but `threshold` needs them.
        timestep_weights: how much tokens count in them, one number for each timestep bucket; None weighs all alike.
        moments_folder: keep them in files there, see `slimdiff_fx.disk_sums`; in memory if None.
    """

    sampling: Sampling = Sampling()
    observe_steps: int | None = None
    seed: int = 0
    batch: int = 16
    checkpoint: Path | None = None
    resume: bool = False
    moments: bool = True
    timestep_weights: tuple[float, ...] | None = None
    moments_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"--batch is {self.batch}; give at least 1")
        if self.observe_steps is not None and self.observe_steps < 1:
            raise UsageError(f"--observe-steps is {self.observe_steps}; give at least 1")
        if self.resume and self.checkpoint is None:
            raise UsageError("nothing to resume from: name the checkpoint file")


def calibrate_pipeline(
    pipe: DiffusionPipeline,
    instrumented: Instrumented,
    observed: Observed,
    samples: Sequence[Sample],
    settings: CalibrationSettings,
    advance: Advance = lambda rows: None,
) -> StoredStatistics:
    """Send all samples through the pipeline and add up what the observers see.

    Sums don't depend on the batches' split or order beyond rounding; a resumed run repeats the interrupted one's
    batches exactly, so its sums are equal bit for bit.

    Args:
        pipe: the pipeline.
        instrumented: the denoiser's program with observers.
        observed: `instrumented`, callable with the denoiser's own arguments.
        samples: the calibration set.
        settings: how.
        advance: told how many samples went one denoiser call further.

    Raises:
        CalibrationError: nothing to run on, a checkpoint of another run, or non-finite activations.
        CheckpointError: the checkpoint can't be read or written.
    """
    if not samples:
        raise CalibrationError("there is nothing to calibrate on; give prompts or pictures")
    record = describe_run(pipe, samples, settings)
    done = _resume(instrumented, settings, record, len(samples)) if settings.resume else 0
    if not settings.resume:
        instrumented.reset()
    finished = StoredStatistics(instrumented.statistics(copy=False), record, done, len(samples))
    written, saved_at, interval = done, time.monotonic(), _CHECKPOINT_EVERY
    try:
        while done < len(samples):
            batch = samples[done : done + settings.batch]
            # Small sets have one batch: halves are of prompts, so they can't be told apart there.
            instrumented.ledger.odd = (done // settings.batch) % 2 == 1
            observe_batch(
                pipe,
                observed,
                batch,
                settings.sampling,
                seed=settings.seed,
                observe_steps=settings.observe_steps,
                advance=advance,
            )
            done += len(batch)
            finished = StoredStatistics(instrumented.statistics(copy=False), record, done, len(samples))
            if settings.checkpoint is not None and time.monotonic() - saved_at > interval:
                start = time.monotonic()
                save_statistics(finished, settings.checkpoint)
                written, saved_at = done, time.monotonic()
                interval = max(_CHECKPOINT_EVERY, _CHECKPOINT_SHARE * (saved_at - start))
    finally:
        # On Ctrl-C, on any failure, and at the end: what finished batches gave is not lost, whatever goes wrong later.
        # Tokens of a batch that didn't finish are still apart from the sums, unless they were more than may wait.
        instrumented.ledger.moments.forget_waiting()
        if settings.checkpoint is not None and finished.done > written and instrumented.ledger.moments.whole:
            save_statistics(finished, settings.checkpoint)
    return finished


def describe_run(pipe: DiffusionPipeline, samples: Sequence[Sample], settings: CalibrationSettings) -> dict[str, Any]:
    """Write down everything that decides the statistics, as JSON values: only runs with equal records share sums."""
    images = [str(sample.image.file.name) for sample in samples if sample.image is not None]
    return {
        "pipeline": type(pipe).__name__,
        "scheduler": {"class": type(pipe.scheduler).__name__, **_plain(dict(pipe.scheduler.config))},
        "samples": len(samples),
        "source": "images" if images else "trajectory",
        "conditions": [sample.condition for sample in samples],
        "images": images,
        "steps": step_count(pipe, settings.sampling),
        "guidance": settings.sampling.guidance,
        "observe_steps": settings.observe_steps,
        "seed": settings.seed,
        "batch": settings.batch,
        "moments": settings.moments,
        "timestep_weights": settings.timestep_weights and list(settings.timestep_weights),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def require_checkpoint(checkpoint: Path) -> None:
    """Refuse to resume from nothing.

    Raises:
        CheckpointError: there is no such file.
    """
    if not checkpoint.is_file():
        raise CheckpointError(f"there is no checkpoint at {checkpoint} to resume; start without --resume")


def has_moments(checkpoint: Path) -> bool:
    """Say whether a checkpoint was taken with second moments: any method can go on from one that was."""
    return checkpoint.is_file() and bool(load_statistics(checkpoint).settings.get("moments"))


def forget_checkpoint(checkpoint: Path | None) -> None:
    """Delete a checkpoint that is no longer needed."""
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _resume(instrumented: Instrumented, settings: CalibrationSettings, record: dict[str, Any], total: int) -> int:
    assert settings.checkpoint is not None
    require_checkpoint(settings.checkpoint)
    stored = load_statistics(settings.checkpoint)
    for name, value in record.items():
        if stored.settings.get(name) != value:
            what = "" if isinstance(value, list | dict) else f" ({stored.settings.get(name)!r} there, {value!r} now)"
            raise CalibrationError(
                f"the checkpoint {settings.checkpoint} was made with other {name}{what}; "
                "repeat those settings, or start anew without --resume"
            )
    try:
        instrumented.load(stored.statistics)
    except CalibrationError as error:
        raise CalibrationError(f"the checkpoint {settings.checkpoint} doesn't fit: {error}") from error
    return min(stored.done, total)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return {
        key: value if isinstance(value, bool | int | float | str | None) else repr(value) for key, value in kept.items()
    }


def statistics_of(stored: StoredStatistics) -> Statistics:
    """Give the sums of a complete calibration.

    Raises:
        CheckpointError: the calibration was interrupted.
    """
    if stored.done < stored.total:
        raise CheckpointError(
            f"the statistics cover {stored.done} of {stored.total} samples; finish the calibration with --resume"
        )
    return stored.statistics
