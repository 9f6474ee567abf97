"""Weights solved once more, from what later sites see when earlier ones are slim already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from passes.analyze.sensitivity import Prober
from passes.calibrate.moments import sums_of
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.names import Compensation
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import is_changed
from passes.program.program import Program
from passes.prove.masking import mask
from passes.sites.site import Site
from passes.solve.adapter_maps import adapter_maps
from passes.solve.compensation import compensate

Observe = Callable[[Program, tuple[Site, ...]], Statistics]


def check_rounds(rounds: int, sites: Sequence[Site]) -> None:
    """Refuse a number of groups that sites can't be split into.

    Raises:
        UsageError: fewer than two, or more than there are sites.
    """
    if not 2 <= rounds <= len(sites):
        raise UsageError(f"`sequential` is {rounds}; give 2 to {len(sites)}, the number of sites")


def solve_sequentially(
    program: Program,
    sites: Sequence[Site],
    plan: SlimPlan,
    statistics: Statistics,
    observe: Observe,
    rounds: int,
    compensation: Compensation = "lstsq",
    *,
    as_published: bool = False,
) -> SlimPlan:
    """Solve for a plan's weights group by group, each on what it sees behind the slim groups before it.

    Sizes stay as they are. A site's new weights reproduce what its dense weights would make of those inputs; they don't
    try to mend what earlier sites lost.

    Args:
        program: the dense program.
        sites: all its sites, in the order of the network.
        plan: for it.
        statistics: what the plan was made from.
        observe: calibrates a program with the earlier groups slim, in dense shapes, and gives moments of some sites.
        rounds: groups; the first keeps its weights, so calibration runs once less.
        compensation: as the plan was made with.
        as_published: see `passes.solve.compensation.compensate`.

    Raises:
        UsageError: fewer than two groups, or more than sites.
    """
    check_rounds(rounds, sites)
    ends = [round(number * len(sites) / rounds) for number in range(rounds + 1)]
    parameters = dict(program.graph_module.named_parameters())
    prober = Prober(program, statistics.probes)
    for start, end in list(pairwise(ends))[1:]:
        group = tuple(sites[start:end])
        seen = observe(mask(program, _plan_of(plan, sites[:start])), group)
        updates, maps = dict(plan.updates), dict(plan.adapter_maps)
        errors = {name: dict(each) for name, each in plan.predicted.get("sites", {}).items()}
        for site in group:
            entry = plan.sites[site.name]
            if is_changed(site, entry, plan.updates):
                scaled = prober.scale_is_implied(site)
                sums = sums_of(site, seen.moments)
                found = compensate(
                    site, entry, sums, parameters, compensation, implied_scale=scaled, as_published=as_published
                )
                updates.update(found.updates)
                maps.update(adapter_maps(site, entry, sums, found))
                errors[site.name] = {"site_error": found.error}
        predicted = {**plan.predicted, "sites": errors}
        plan = replace(plan, updates=updates, predicted=predicted, adapter_maps=maps)
    changes = [(site, plan.sites[site.name], plan.updates) for site in sites]
    error = prober.relative_mse([change for change in changes if is_changed(*change)])
    # what sensitivities said was about the former weights
    kept = {name: value for name, value in plan.predicted.items() if name != "relative_mse_by_sensitivities"}
    return replace(plan, policy={**plan.policy, "sequential": rounds}, predicted={**kept, "relative_mse": error})


def _plan_of(plan: SlimPlan, sites: Sequence[Site]) -> SlimPlan:
    """Carry a plan out at some sites only; the others stay whole."""
    names = {site.name for site in sites}
    paths = {path for site in sites for path in site.paths}
    entries = {
        name: entry if name in names else SitePlan(entry.kind, entry.units, tuple(range(entry.units)))
        for name, entry in plan.sites.items()
    }
    updates = {name: value for name, value in plan.updates.items() if name.rpartition(".")[0] in paths}
    return replace(plan, sites=entries, updates=updates)
