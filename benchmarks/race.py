"""Time denoisers on one backend, each in turn with the dense one."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from passes.plan.costs import program_macs, program_params
from slimdiff_fx.timing.bench import clock_of
from slimdiff_fx.timing.interleave import CLOCKS, Timing, interleave, paired_ratio
from slimdiff_fx.timing.runtimes import Contestant, Forward, prepare


@dataclass(frozen=True)
class Entrant:
    """A slim denoiser that is to run against the dense one.

    Attributes:
        name: for the table.
        make: builds it; called when its turn has come, so that one is in memory at a time.
    """

    name: str
    make: Callable[[], Contestant]


@dataclass(frozen=True)
class Race:
    """How denoisers are timed against each other.

    Attributes:
        backend: see `slimdiff_fx.timing.runtimes`.
        threads: CPU threads.
        repeats: turns at least.
        warmup: turns that aren't counted.
        min_seconds: time at least to spend on each denoiser.
        dtype: to export in, for ONNX Runtime; None keeps the model's.
    """

    backend: str
    threads: int = 1
    repeats: int = 20
    warmup: int = 2
    min_seconds: float = 5.0
    dtype: torch.dtype | None = None

    def run(self, dense: Contestant, entrants: Sequence[Entrant]) -> Iterator[dict[str, Any]]:
        """Time each entrant against the dense denoiser, pair by pair.

        Yields:
            the dense denoiser's row, from its first pair, then each entrant's, as JSON values.

        Raises:
            SlimDiffError: a denoiser can't be made, exported or run.
        """
        reference = self._ready(dense)
        macs, params = program_macs(dense.program), program_params(dense.program)
        for place, entrant in enumerate(entrants):
            contestant = entrant.make()
            own_macs, own_params = program_macs(contestant.program), program_params(contestant.program)
            with tempfile.TemporaryDirectory() as folder:
                forward = prepare(self.backend, contestant, Path(folder), self.threads, self.dtype)
                timings = self._time({"dense": reference, "slim": forward})
                del forward, contestant
                gc.collect()  # graphs refer to themselves; a slim one less before the next is made
            if place == 0:
                yield {"name": dense.name, "params": params, "macs": macs, **timings["dense"].to_dict()}
            ratio = paired_ratio(timings["slim"], timings["dense"])
            yield {
                "name": entrant.name,
                "params": own_params,
                "macs": own_macs,
                **timings["slim"].to_dict(),
                "dense_ms": timings["dense"].to_dict()["median_ms"],
                "time_ratio": round(ratio, 4),
                "mac_ratio": round(own_macs / macs, 4),
                "param_ratio": round(own_params / params, 4),
                "realized": round(own_macs / macs / ratio, 4),
            }

    @property
    def clock(self) -> str:
        """What times are read from; see `slimdiff_fx.timing.bench.clock_of`."""
        return clock_of(self.backend, self.threads)

    def _ready(self, contestant: Contestant) -> Forward:
        with tempfile.TemporaryDirectory() as folder:
            return prepare(self.backend, contestant, Path(folder), self.threads, self.dtype)

    def _time(self, forwards: dict[str, Forward]) -> dict[str, Timing]:
        return interleave(
            forwards,
            repeats=self.repeats,
            warmup=self.warmup,
            min_seconds=self.min_seconds,
            clock=CLOCKS[self.clock],
        )
