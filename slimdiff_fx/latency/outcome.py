"""What the slim denoiser's latency was expected to be, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin

from passes.errors import UsageError
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.target import make_target
from slimdiff_fx.timing.bench import Clock, Effort, clock_of, opened
from slimdiff_fx.timing.interleave import Timing, both_times, paired_ratio


@dataclass(frozen=True)
class Latency:
    """Dense and slim, run in turn.

    Attributes:
        backend: the runtime.
        threads: CPU threads.
        clock: what times were read from, "processor" or "wall".
        expected: slim over dense, as the plan has it.
        measured: the same, the median of the turns' own ratios.
        dense_ms: median of the dense denoiser, in milliseconds.
        slim_ms: median of the slim one.
        dense_spread_ms: half the distance between the quartiles.
        slim_spread_ms: likewise.
        runs: turns.
    """

    backend: str
    threads: int
    clock: Clock
    expected: float
    measured: float
    dense_ms: float
    slim_ms: float
    dense_spread_ms: float
    slim_spread_ms: float
    runs: int

    def sentence(self) -> str:
        """Say it in a line; the slim time as `both_times` writes it."""
        dense, slim = both_times(self.dense_ms, self.measured)
        return (
            f"latency on {self.backend}, {self.threads} threads: expected {self.expected:.3f} of the dense one, "
            f"measured {self.measured:.3f} ({dense} to {slim} ms)"
        )


def expected_ratio(plan: SlimPlan) -> float | None:
    """Give the latency that a plan expects, slim over dense; None if it was made for something else."""
    cost: Mapping[str, Any] = plan.predicted.get("cost") or {}
    return cost["slim"] / cost["dense"] if cost.get("of") == "latency" else None


def measure_latency(
    policy: KeepLatency, program: Program, plan: SlimPlan, model: ModelMixin | None = None, effort: Effort | None = None
) -> Latency:
    """Time a denoiser, dense and by a plan, in turn.

    Args:
        policy: says on what, and at which sizes.
        program: the dense program, with dynamic sizes.
        plan: made with that policy.
        model: the eager model, for runtimes that run it; None to time the graph in its place.
        effort: how long.

    Raises:
        UsageError: the plan expects no latency, or the sizes can't be timed.
        ExportError: the runtime fails.
    """
    expected = expected_ratio(plan)
    if expected is None:
        raise UsageError("the plan expects no latency; make it with a budget of latency")
    with dense_against(policy, program, model, effort) as timed:
        dense, slim = timed(plan)
    return Latency(
        policy.backend,
        policy.used_threads,
        clock_of(policy.backend, policy.used_threads),
        expected,
        paired_ratio(slim, dense),
        dense.median * 1e3,
        slim.median * 1e3,
        dense.spread * 1e3,
        slim.spread * 1e3,
        len(dense.seconds),
    )


@contextmanager
def dense_against(
    policy: KeepLatency, program: Program, model: ModelMixin | None = None, effort: Effort | None = None
) -> Iterator[Callable[[SlimPlan], tuple[Timing, Timing]]]:
    """Make the dense denoiser ready, and give what times it and a plan's in turn; arguments as of `measure_latency`."""
    target = make_target(program, model, policy.sizes)
    with opened(policy.backend, policy.used_threads, effort) as bench:
        dense = bench.ready(target.whole("dense"))

        def timed(plan: SlimPlan) -> tuple[Timing, Timing]:
            timings = bench.whole({"dense": dense, "slim": bench.ready(target.whole("slim", plan))})
            return timings["dense"], timings["slim"]

        yield timed
