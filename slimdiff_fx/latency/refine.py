"""A budget that the whole denoiser meets: plan, time the plan, correct what sites save, plan again.

Sites are timed alone, and what two denoisers of half the width save corrects them (`slimdiff_fx.latency.measure`). A
plan that takes much from a few sites can still come out otherwise: a runtime fuses across sites, or a cache holds what
is smaller. Its own time settles that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from diffusers import ModelMixin

from passes.errors import BudgetError
from passes.plan.costs import CostTable
from passes.plan.policies import Keep
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.site import Site
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import dense_against
from slimdiff_fx.latency.table import measured_costs
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.timing.bench import Effort
from slimdiff_fx.timing.interleave import paired_ratio

CORRECTIONS = 2
NEAR = 0.02  # relative gap of expected and measured latency: timing the same denoiser twice differs by about as much
_LEAST, _MOST = 0.1, 10.0


@dataclass(frozen=True)
class Refined:
    """A plan whose latency was timed while it was made.

    Attributes:
        plan: the one that was chosen.
        priced: the budget with the costs that it was made by.
        tries: expected and measured latency, as shares of the dense one, of each plan that was timed.
    """

    plan: SlimPlan
    priced: Keep
    tries: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Corrected:
    curve: Callable[[int], int]
    whole: int
    factor: float

    def __call__(self, channels: int) -> int:
        return max(0, round(self.whole - self.factor * (self.whole - self.curve(channels))))


def refine(
    priced: Keep,
    sites: Sequence[Site],
    make_plan: Callable[[Keep], SlimPlan],
    time_plan: Callable[[SlimPlan], float],
) -> Refined:
    """Plan until what is expected is what is measured, or `CORRECTIONS` were made.

    A runtime whose kernels step answers a small change of a plan with a large one. Where no plan comes near, it takes
    the slowest of those that were timed and meet the budget, or the fastest if none does.

    Args:
        priced: the budget, with what sites cost by their own times.
        sites: all sites of the program.
        make_plan: plans within a budget.
        time_plan: gives a plan's latency as a share of the dense one.

    Raises:
        BudgetError: by corrected costs nothing meets the budget, and nothing that was timed does.
    """
    tries: list[tuple[float, float]] = []
    timed: list[tuple[float, SlimPlan, Keep]] = []
    limit = priced.fraction * (1 + NEAR)
    for _ in range(CORRECTIONS + 1):
        try:
            plan = make_plan(priced)
        except BudgetError:
            if not any(measured <= limit for measured, *_ in timed):
                raise
            break
        expected = priced.table.kept(sites, plan.sites) / priced.table.total
        measured = time_plan(plan)
        tries.append((round(expected, 4), round(measured, 4)))
        timed.append((measured, plan, priced))
        if abs(expected / measured - 1) <= NEAR or expected >= 1:
            return Refined(plan, priced, tuple(tries))
        factor = min(max((1 - measured) / (1 - expected), _LEAST), _MOST)
        priced = replace(priced, costs=_corrected(priced.table, sites, factor, tries))
    met = [each for each in timed if each[0] <= limit]
    _, plan, priced = max(met, key=_measured) if met else min(timed, key=_measured)
    return Refined(plan, priced, tuple(tries))


def _measured(timed: tuple[float, SlimPlan, Keep]) -> float:
    return timed[0]


@contextmanager
def plan_timer(
    policy: KeepLatency, program: Program, model: ModelMixin | None = None, effort: Effort | None = None
) -> Iterator[Callable[[SlimPlan], float]]:
    """Make the dense denoiser ready, and give what times plans against it; see `refine`.

    Args:
        policy: says on what, and at which sizes.
        program: the dense program, with dynamic sizes.
        model: the eager model, for runtimes that run it; None to time the graph in its place.
        effort: how long.
    """
    with dense_against(policy, program, model, effort) as timed:

        def time_plan(plan: SlimPlan) -> float:
            dense, slim = timed(plan)
            return paired_ratio(slim, dense)

        yield time_plan


def plan_within_latency(
    policy: KeepLatency,
    program: Program,
    sites: Sequence[Site],
    make_plan: Callable[[Keep], SlimPlan],
    *,
    narrow: bool,
    model: ModelMixin | None = None,
    listener: Listener = SILENT,
) -> SlimPlan:
    """Measure what sites cost, plan by that, and refine the plan; arguments as of `measured_costs` and `refine`."""
    priced = measured_costs(policy, program, sites, narrow=narrow, model=model, listener=listener)
    with plan_timer(policy, program, model) as time_plan:
        return refine(priced, sites, make_plan, time_plan).plan


def _corrected(
    costs: CostTable, sites: Sequence[Site], factor: float, tries: Sequence[tuple[float, float]]
) -> CostTable:
    curves = {site.name: _Corrected(costs.sites[site.name], costs.whole(site), factor) for site in sites}
    return replace(costs, sites=curves, record={**costs.record, "tries": [list(each) for each in tries]})
