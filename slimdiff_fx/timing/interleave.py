"""Fair timing: everybody in turn, and ratios within a turn."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CLOCKS: Mapping[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant, run by run."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run's seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, in seconds: what half of the runs stay within, about."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (upper - lower) / 2

    def to_dict(self) -> dict[str, Any]:
        """Give milliseconds as plain JSON values."""
        return {
            "median_ms": round(self.median * 1e3, 4),
            "spread_ms": round(self.spread * 1e3, 4),
            "min_ms": round(min(self.seconds) * 1e3, 4),
            "runs": len(self.seconds),
        }


def interleave(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warmup: int,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time all contestants in turn, round by round, so that a noisy neighbour or a hot chip hits them alike.

    Every second round runs in reverse order: who comes first has the colder caches.

    Args:
        contestants: what to call, by name.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: go on with rounds until each contestant has run this long in all.
        max_seconds: or until one has run this long, once there were `repeats` rounds.
        clock: gives seconds; processor time for what runs in one thread on a machine that others use as well.
    """
    for _ in range(warmup):
        for run in contestants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    enabled = gc.isenabled()
    gc.disable()
    try:
        spent = dict.fromkeys(names, 0.0)
        while len(seconds[names[0]]) < repeats or (
            min(spent.values()) < min_seconds and max(spent.values()) < max_seconds
        ):
            for name in names:
                start = clock()
                contestants[name]()
                seconds[name].append(clock() - start)
                spent[name] += seconds[name][-1]
            names.reverse()
    finally:
        if enabled:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def paired_ratio(timing: Timing, reference: Timing) -> float:
    """Give the median of the rounds' own ratios: what slows a round down slows both sides of its ratio."""
    return statistics.median(_ratio(a, b) for a, b in zip(timing.seconds, reference.seconds, strict=True))


def both_times(first_ms: float, ratio: float) -> tuple[str, str]:
    """Write two times that stand beside their ratio, in milliseconds.

    The second is the first times the ratio: on a busy machine two medians may contradict the ratio within turns.

    Args:
        first_ms: the median of the first.
        ratio: second over first, as `paired_ratio` gives it.
    """
    return f"{first_ms:.1f}", f"{first_ms * ratio:.1f}"


def _ratio(seconds: float, reference: float) -> float:
    """Divide; a coarse clock may see nothing of a short run."""
    if reference > 0:
        return seconds / reference
    return math.inf if seconds > 0 else 1.0
