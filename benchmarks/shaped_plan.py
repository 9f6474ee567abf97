"""Plans by shape alone, in the sizes that planning offers: for questions of speed, where weights don't matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from passes.analyze.optimize import Option, allocate_within_cost
from passes.plan.costs import params_table
from passes.plan.policies import Keep
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.site import Site
from passes.solve.error_curves import Size, sizes_offered
from slimdiff_fx.latency.shaped_plan import shaped_plan


def even_plan(program: Program, sites: Sequence[Site], removed: float, align: int | None = None) -> SlimPlan:
    """Remove the same share of each site, as nearly as its sizes allow, until `removed` of all sites' weights are gone.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        removed: share of the sites' weights, in [0, 1).
        align: as policies have it.
    """
    params = params_table(program, sites)
    whole = sum(params.whole(site) for site in sites)
    offered = {site.name: sizes_offered(site, True, align) for site in sites}

    def sizes_at(kept: float) -> dict[str, Size]:
        return {
            site.name: min(offered[site.name], key=lambda size: abs(size[0] * size[1] - kept * site.width))
            for site in sites
        }

    low, high = 0.0, 1.0
    for _ in range(30):
        kept = (low + high) / 2
        sizes = sizes_at(kept)
        left = sum(params.of(site, *sizes[site.name]) for site in sites)
        low, high = (low, kept) if left > (1 - removed) * whole else (kept, high)
    return shaped_plan(program, sites, sizes_at(low))


def plan_for_cost(program: Program, sites: Sequence[Site], priced: Keep, seed: int = 0) -> SlimPlan:
    """Meet a budget with made-up errors: a random weight of each site, times the square of what goes.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        priced: the budget.
        seed: of the weights.

    Raises:
        UsageError: nothing meets the budget.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes, options = {}, {}
    for site in sites:
        sizes[site.name] = sizes_offered(site, True, priced.align)
        weight = float(torch.rand((), generator=generator)) + 0.1
        options[site.name] = [
            Option(index, priced.table.of(site, units, width), weight * (1 - units * width / site.width) ** 2)
            for index, (units, width) in enumerate(sizes[site.name])
        ]
    budget = int(priced.fraction * priced.table.total) - priced.table.rest(sites)
    chosen = allocate_within_cost(options, budget)
    return shaped_plan(program, sites, {name: sizes[name][option.index] for name, option in chosen.items()})
