"""What other thresholds or budgets would keep, counted exactly; no weight is solved for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from passes.analyze.planner import Planner
from passes.analyze.thresholds import allocate
from passes.errors import BudgetError
from passes.names import Normalization
from passes.plan.costs import macs_table, params_table
from passes.plan.policies import KeepParams, Threshold
from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.sites.site import Site

# Shares of the sites' weights that are asked to go: 0 to 96%.
SHARES = tuple(step / 25 for step in range(25))
# Thresholds, three decades in even ratios: most scores are small.
TAUS = (0.0, *(10 ** (step / 12 - 3) for step in range(37)))


@dataclass(frozen=True)
class SweepPoint:
    """What one threshold or budget would keep.

    Attributes:
        at: tau, or the share of the denoiser's parameters that was asked to stay.
        params: parameters of the whole denoiser that stay.
        macs: multiply-adds of one forward that stay, at the captured sizes.
        error: the prediction's expected relative squared error, summed over the sites; None where none is predicted.
        entries: by site, what stays.
    """

    at: float
    params: int
    macs: int
    error: float | None
    entries: Mapping[str, SitePlan]


def sweep_thresholds(
    program: Program,
    sites: Sequence[Site],
    scores: Mapping[str, Tensor],
    normalize: Normalization = "max",
    align: int | None = None,
    taus: Sequence[float] = TAUS,
) -> tuple[SweepPoint, ...]:
    """Count what each threshold would keep, from the lowest to the highest; arguments as for `allocate`."""
    costs = params_table(program, sites), macs_table(program, sites)
    points = []
    for tau in taus:
        entries = allocate(program, sites, scores, Threshold(tau, normalize, align)).sites
        params, macs = (table.kept(sites, entries) for table in costs)
        points.append(SweepPoint(tau, params, macs, None, entries))
    return tuple(points)


def sweep_budgets(
    program: Program,
    sites: Sequence[Site],
    planner: Planner,
    align: int | None = None,
    shares: Sequence[float] = SHARES,
    uniform: bool = False,
) -> tuple[SweepPoint, ...]:
    """Give the optimum of each of several budgets, from the largest to the smallest that can be met.

    Args:
        program: the dense program.
        sites: all its sites.
        planner: of the same program and sites.
        align: as in `passes.plan.policies.KeepParams`.
        shares: of the sites' weights, how much is asked to go, ascending.
        uniform: as in `passes.plan.policies.KeepParams`.
    """
    costs = params_table(program, sites), macs_table(program, sites)
    removable = costs[0].total - costs[0].rest(sites)
    points: list[SweepPoint] = []
    for share in shares:
        fraction = 1 - share * removable / costs[0].total
        try:
            entries, error = planner.sizes_within(KeepParams(fraction, align=align, uniform=uniform))
        except BudgetError:
            break
        params, macs = (table.kept(sites, entries) for table in costs)
        points.append(SweepPoint(fraction, params, macs, error, entries))
    return tuple(points)
