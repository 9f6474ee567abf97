"""Refuse a budget that no plan can meet, by the shapes of the sites alone: before hours of calibration."""

from __future__ import annotations

from collections.abc import Sequence

from passes.plan.policies import Keep, price_list, unmet
from passes.program.program import Program
from passes.sites.site import Site
from passes.solve.error_curves import sizes_offered
from passes.solve.recipes import RECIPES, Method


def refuse_unreachable(program: Program, sites: Sequence[Site], policy: object, method: Method) -> None:
    """Refuse a budget below what the smallest size of every site leaves; other policies can always be met.

    Args:
        program: the dense program.
        sites: all its sites.
        policy: how much goes, or None.
        method: decides which sizes are offered.

    Raises:
        BudgetError: says the least that can be asked for, as planning itself would.
    """
    if not isinstance(policy, Keep):
        return
    costs, budget = price_list(program, sites, policy)
    narrow = RECIPES[method].heads == "narrow"
    least = costs.rest(sites) + sum(
        min(costs.of(site, *size) for size in sizes_offered(site, narrow, policy.align)) for site in sites
    )
    if least > budget:
        raise unmet(
            policy,
            costs,
            least,
            "one unit left in each site" if method == "threshold" else "the smallest size of each site",
        )
