"""Calibrate through the pipeline, batch after batch, so that it can be stopped and resumed to the same bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

from passes.calibrate.instrument import Instrumented
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, CheckpointError
from slimdiff_fx.calibration.checkpoint import find_checkpoint, finished_samples, load_checkpoint, own_checkpoint
from slimdiff_fx.calibration.rank_sums import require_agreement, sum_over_ranks
from slimdiff_fx.calibration.ranks import Ranks
from slimdiff_fx.calibration.record import CalibrationSettings, describe_run
from slimdiff_fx.calibration.shares import Share
from slimdiff_fx.files.statistics_file import StoredStatistics, save_statistics
from slimdiff_fx.pipelines.trajectory import Advance, Observed, Sample, observe_batch, observed_steps

# Seconds between checkpoints: a kill loses at most this much, Ctrl-C nothing but the batch that runs.
_CHECKPOINT_EVERY = 20.0
# Where a checkpoint is gigabytes, time between two of them is a multiple of what writing one takes.
_CHECKPOINT_SHARE = 20


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
    batches exactly, so its sums are equal bit for bit. Several ranks share the batches that one process would run, and
    each ends with the sums of all.

    Args:
        pipe: the pipeline.
        instrumented: the denoiser's program with observers.
        observed: `instrumented`, callable with the denoiser's own arguments.
        samples: the calibration set, all of it on each rank.
        settings: how.
        advance: told how many samples went one denoiser call further.

    Raises:
        CalibrationError: nothing to run on, a checkpoint of another run, or non-finite activations.
        CheckpointError: the checkpoint can't be read or written.
        RankError: a rank was lost.
    """
    if not samples:
        raise CalibrationError("there is nothing to calibrate on; give prompts or pictures")
    ranks = settings.ranks
    share = Share(len(samples), settings.batch, ranks.rank, ranks.world)
    calls = len(observed_steps(pipe, settings.sampling, settings.observe_steps, settings.seed))
    record = describe_run(pipe, samples, settings)
    if ranks.several:
        require_agreement({**record, "model": instrumented.fingerprint}, ranks)
    file = None if settings.checkpoint is None else own_checkpoint(settings.checkpoint, ranks)
    done = 0
    if settings.resume and settings.checkpoint is not None:
        find_checkpoint(settings.checkpoint, ranks)
    if settings.resume and file is not None and file.is_file():
        done = min(finished_samples(settings.checkpoint, ranks), share.total)
        load_checkpoint(file, instrumented, _own(record, ranks), share.calls(done, calls) if ranks.several else None)
    else:
        instrumented.reset()

    def advanced(rows: int) -> None:
        ranks.beat()
        advance(rows)

    # Not part of the record that a resumed run must match: the number of threads changes results by rounding alone.
    threads = {"threads": torch.get_num_threads()}
    finished = StoredStatistics(instrumented.statistics(copy=False), _own(record, ranks) | threads, done, share.total)
    written, saved_at, interval = done, time.monotonic(), _CHECKPOINT_EVERY
    try:
        for number in share.left(done):
            batch = samples[share.rows(number)]
            # Small sets have one batch: halves are of prompts, so they can't be told apart there.
            instrumented.ledger.odd = number % 2 == 1
            if ranks.several:
                instrumented.probes.call = number * calls
            observe_batch(
                pipe,
                observed,
                batch,
                settings.sampling,
                seed=settings.seed,
                observe_steps=settings.observe_steps,
                advance=advanced,
            )
            if ranks.several and instrumented.probes.call != (number + 1) * calls:
                raise CalibrationError(
                    f"{type(pipe).__name__} called its denoiser another number of times than its scheduler has steps, "
                    "so its batches can't be shared between ranks; calibrate in one process"
                )
            done += len(batch)
            finished = replace(finished, statistics=instrumented.statistics(copy=False), done=done)
            if file is not None and time.monotonic() - saved_at > interval:
                start = time.monotonic()
                save_statistics(finished, file)
                written, saved_at = done, time.monotonic()
                interval = max(_CHECKPOINT_EVERY, _CHECKPOINT_SHARE * (saved_at - start))
    finally:
        # On Ctrl-C, on any failure, and at the end: what finished batches gave is not lost, whatever goes wrong later.
        # Tokens of a batch that didn't finish are still apart from the sums, unless they were more than may wait.
        instrumented.ledger.moments.forget_waiting()
        if file is not None and finished.done > written and instrumented.ledger.moments.whole:
            save_statistics(finished, file)
    if ranks.several:
        sum_over_ranks(instrumented, ranks)
        finished = StoredStatistics(instrumented.statistics(copy=False), record | threads, len(samples), len(samples))
    return finished


def _own(record: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Add to a run's record whose share of it the sums are."""
    return {**record, "rank": ranks.rank} if ranks.several else record


def statistics_of(stored: StoredStatistics) -> Statistics:
    """Give the sums of a complete calibration.

    Raises:
        CheckpointError: the calibration was interrupted.
    """
    if stored.done < stored.total:
        raise CheckpointError(
            f"the statistics cover {stored.done} of {stored.total} samples; finish the calibration with `resume=True`"
        )
    return stored.statistics
