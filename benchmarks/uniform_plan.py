"""A plan that needs no calibration: for questions in which only shapes matter (speed, memory)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from passes.errors import UsageError
from passes.plan.fingerprint import plan_for
from passes.plan.policies import Keep, price_list
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.site import Site


def uniform_plan(program: Program, sites: Sequence[Site], keep: float, seed: int = 0) -> SlimPlan:
    """Keep the same share of every site's units, drawn at random.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        keep: share of units that stays, in (0, 1]; at least one unit does.
        seed: of the draw.

    Raises:
        UsageError: the share is out of range.
    """
    if not 0 < keep <= 1:
        raise UsageError(f"the share to keep is {keep:g}; it must be in (0, 1]")
    generator = torch.Generator().manual_seed(seed)
    plans = {}
    for site in sites:
        count = max(1, round(site.units * keep))
        kept = torch.randperm(site.units, generator=generator)[:count].sort().values
        plans[site.name] = SitePlan(site.kind, site.units, tuple(kept.tolist()))
    return plan_for(program, sites, plans, {"uniform": keep, "seed": seed})


def plan_uniformly(program: Program, sites: Sequence[Site], scores: Mapping[str, Tensor], policy: Keep) -> SlimPlan:
    """Remove the same share of each site's units, those of the lowest scores: the smallest share that meets a budget.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        scores: by site name, [units]; higher stays longer.
        policy: the budget.
    """
    costs, budget = price_list(program, sites, policy)
    order = {site.name: scores[site.name].argsort(descending=True, stable=True).tolist() for site in sites}

    def kept(share: float) -> dict[str, int]:
        return {site.name: max(1, site.units - round(share * site.units)) for site in sites}

    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        counts = kept(share)
        left = costs.rest(sites) + sum(costs.of(site, counts[site.name]) for site in sites)
        low, high = (low, share) if left <= budget else (share, high)
    counts = kept(high) if policy.fraction < 1 else {site.name: site.units for site in sites}
    entries = {
        site.name: SitePlan(site.kind, site.units, tuple(sorted(order[site.name][: counts[site.name]])))
        for site in sites
    }
    return plan_for(program, sites, entries, {"uniform": 1 - high})
