"""How many CPU threads a denoiser is run with: as many as it is fastest with now, on one call of its own.

Every operator ends with its threads waiting for one another. A small denoiser's are short, so that a second thread can
cost more than it saves, the more so where other processes take the processor away from one of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline

from slimdiff_fx.calibration.checkpoint import recorded_threads
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.rehearse import at_first_call
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.pipelines.trajectory import Sample

# Where this is set, the user has chosen the number of threads; torchrun sets it too.
CHOSEN_BY = "OMP_NUM_THREADS"
_SECONDS = 1.5  # to time for, in all
_ROUNDS = 5
# A denoiser whose call takes longer has operators long enough for all threads, and is not worth the time.
_LONG = 1.0
# More threads have to be so much faster than fewer: what others run beside us needs a core as well.
_WORTH = 0.95


@contextmanager
def restored_threads() -> Iterator[None]:
    """Put back how many threads torch uses, at the end of a block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(pipe: DiffusionPipeline, samples: Sequence[Sample], settings: CalibrationSettings) -> int:
    """Set the number of torch's threads to what a calibration's first batch is fastest with.

    A resumed run keeps the number that it was begun with, since another one rounds otherwise. Nothing is changed where
    OMP_NUM_THREADS is set, where ranks share a machine, or where the denoiser isn't on the CPU.

    Args:
        pipe: the pipeline; it is as before when this returns, but for its scheduler's timesteps.
        samples: the calibration set.
        settings: how to calibrate.

    Returns:
        the number of threads from now on.

    Raises:
        UsageError: the pipeline can't be called with these settings.
    """
    most = torch.get_num_threads()
    denoiser = getattr(pipe, denoiser_name(pipe))
    if os.environ.get(CHOSEN_BY) or settings.ranks.several or denoiser.device.type != "cpu":
        return most
    begun_with = recorded_threads(settings.checkpoint) if settings.resume else None
    if begun_with is None and most > 1:
        plain = denoiser.forward

        def forward(*args: Any, **kwargs: Any) -> None:
            nonlocal begun_with
            begun_with = _fastest(lambda: plain(*args, **kwargs), most)

        at_first_call(pipe, samples[: settings.batch], settings.sampling, settings.seed, forward)
    torch.set_num_threads(begun_with or most)
    return torch.get_num_threads()


def _fastest(call: Callable[[], Any], most: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """Time a call with one thread, two, four, ... and `most`, in turn; give the fewest that are about the fastest."""
    with restored_threads(), torch.no_grad():
        call()  # the first call does what is done once, and isn't timed
        began = clock()
        call()
        if clock() - began > _LONG:
            return most
        best = dict.fromkeys(_counts(most), float("inf"))
        began = clock()
        for _ in range(_ROUNDS):
            for threads in best:
                torch.set_num_threads(threads)
                start = clock()
                call()
                best[threads] = min(best[threads], clock() - start)
            if clock() - began > _SECONDS:
                break
    chosen = 1
    for threads, seconds in best.items():
        if seconds < _WORTH * best[chosen]:
            chosen = threads
    return chosen


def _counts(most: int) -> list[int]:
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return [*counts, most]
