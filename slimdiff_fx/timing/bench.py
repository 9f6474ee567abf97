"""Where denoisers and parts of them are made ready and timed in turn, on one runtime."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from slimdiff_fx.timing.interleave import CLOCKS, Timing, interleave
from slimdiff_fx.timing.runtimes import Contestant, Forward, prepare, runtime

Clock = Literal["processor", "wall"]


@dataclass(frozen=True)
class Effort:
    """How long things are timed.

    Attributes:
        repeats: turns at least.
        warmup: turns before that, which don't count.
        site_seconds: time that each size of a site is run.
        whole_seconds: time that each denoiser is run.
    """

    repeats: int = 7
    warmup: int = 2
    site_seconds: float = 0.25
    whole_seconds: float = 3.0


def clock_of(backend: str, threads: int) -> Clock:
    """Say what times are read from.

    One thread on a CPU uses the processor for as long as it would run on a machine that does nothing else, whatever its
    neighbours do. Threads that wait for one another, and GPUs, are timed on the wall.
    """
    return "processor" if threads == 1 and runtime(backend).device == "cpu" else "wall"


class Bench:
    """Makes contestants ready and runs them in turn; use it through `opened`.

    Args:
        backend: the runtime's name.
        threads: CPU threads.
        effort: how long things are timed.
        folder: for the runtime's files.
    """

    def __init__(self, backend: str, threads: int, effort: Effort, folder: Path) -> None:
        self.backend, self.threads = backend, threads
        self._effort, self._folder = effort, folder
        self._count = 0

    @property
    def clock(self) -> Clock:
        """What times are read from; see `clock_of`."""
        return clock_of(self.backend, self.threads)

    def ready(self, contestant: Contestant) -> Forward:
        """Build what runs a contestant; its memory and files are freed when the result is dropped."""
        self._count += 1
        place = self._folder / str(self._count)
        place.mkdir()
        forward = prepare(self.backend, contestant, place, self.threads, None)
        weakref.finalize(forward, shutil.rmtree, place, ignore_errors=True)
        return forward

    def sites(self, forwards: Mapping[str, Forward]) -> dict[str, Timing]:
        """Run sites in turn; with a denoiser among them, no longer than denoisers are run."""
        return self._time(forwards, self._effort.site_seconds)

    def whole(self, forwards: Mapping[str, Forward]) -> dict[str, Timing]:
        """Run denoisers in turn."""
        return self._time(forwards, self._effort.whole_seconds)

    def _time(self, forwards: Mapping[str, Forward], seconds: float) -> dict[str, Timing]:
        effort = self._effort
        return interleave(
            forwards,
            repeats=effort.repeats,
            warmup=effort.warmup,
            min_seconds=seconds,
            max_seconds=effort.whole_seconds,
            clock=CLOCKS[self.clock],
        )


@contextmanager
def opened(backend: str, threads: int, effort: Effort | None = None) -> Iterator[Bench]:
    """Open a bench, with torch's own threads set as well."""
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(threads)
        try:
            yield Bench(backend, threads, effort or Effort(), Path(folder))
        finally:
            torch.set_num_threads(before)
