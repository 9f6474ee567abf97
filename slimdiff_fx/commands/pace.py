"""How fast something goes now: over its last half minute, not since it began."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Pace:
    """Counts steps, and tells how fast they came lately.

    A run that others slow down, or that comes to larger pieces, says so within the window. Where steps are further
    apart than the window is long, the speed is that of the last one.

    Args:
        done: steps that were done before.
        window: seconds that count.
        clock: gives seconds.
    """

    def __init__(self, done: int = 0, window: float = 30.0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.done = done
        self._window, self._clock = window, clock
        self._first = (clock(), done)
        self._seen = deque([self._first])  # when, and how many were done then; the first is a window old or the start

    def advance(self, count: int) -> None:
        """Count steps that are done."""
        self.done += count
        now = self._clock()
        self._seen.append((now, self.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()

    def speed(self) -> float:
        """Steps a second in the window before the newest step; 0 before the first.

        The time since the newest counts as well once it is longer than steps took lately: what stalls gets slower.
        """
        (start, before), (newest, done) = self._seen[0], self._seen[-1]
        if done == before:
            return 0.0
        since = self._clock() - newest
        usual = (newest - start) / (len(self._seen) - 1)
        return (done - before) / max(newest - start + (since if since > usual else 0.0), 1e-9)

    def overall(self) -> float:
        """Steps a second since the beginning."""
        start, before = self._first
        return (self.done - before) / max(self._clock() - start, 1e-9)
