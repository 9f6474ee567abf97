"""A training budget in minutes: learning rates follow the share of it that is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator


def steps(minutes: float, warmup: float = 0.04) -> Iterator[tuple[int, float]]:
    """Yield (step, learning-rate factor in (0, 1]) until the minutes are over: linear warm-up, cosine to zero.

    A budget in time, not in steps, so that a slower or busier machine ends with a finished schedule too.
    """
    start = time.monotonic()
    step = 0
    while (used := (time.monotonic() - start) / (60 * minutes)) < 1:
        factor = used / warmup if used < warmup else 0.5 * (1 + math.cos(math.pi * (used - warmup) / (1 - warmup)))
        yield step, max(factor, 1e-3)
        step += 1
