"""Weights solved once more, from what later sites see when earlier ones are slim already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from passes.compensation import Compensation, compensate
from passes.errors import UsageError
from passes.fingerprint import fingerprint
from passes.moments import Sums, sums_of
from passes.plan import SitePlan, SlimPlan
from passes.program import Program
from passes.sensitivity import Prober
from passes.site import Site
from passes.updates import is_changed, linear_paths


def site_groups(sites: Sequence[Site], count: int) -> list[tuple[Site, ...]]:
    """Split sites, in the order of the network, into groups that are as equal as can be.

    Raises:
        UsageError: fewer than two groups, or more than there are sites.
    """
    if not 2 <= count <= len(sites):
        raise UsageError(f"{count} sequential rounds: give at least 2, and at most {len(sites)}, as many as sites")
    ends = [round(number * len(sites) / count) for number in range(count + 1)]
    return [tuple(sites[start:end]) for start, end in zip(ends, ends[1:], strict=False)]


def plan_of(plan: SlimPlan, sites: Sequence[Site]) -> SlimPlan:
    """Carry a plan out at some sites only; the others stay whole."""
    names = {site.name for site in sites}
    paths = {path for site in sites for path in linear_paths(site)}
    entries = {
        name: entry if name in names else SitePlan(entry.kind, entry.units, tuple(range(entry.units)))
        for name, entry in plan.sites.items()
    }
    updates = {name: value for name, value in plan.updates.items() if name.rpartition(".")[0] in paths}
    return replace(plan, sites=entries, updates=updates)


def solve_again(
    program: Program,
    plan: SlimPlan,
    sites: Sequence[Site],
    moments: Mapping[str, Sums],
    compensation: Compensation = "lstsq",
    *,
    as_published: bool = False,
) -> SlimPlan:
    """Solve for the new weights of some sites from other moments; their sizes stay.

    Args:
        program: the dense program.
        plan: for it.
        sites: the ones to solve for.
        moments: by site name, of these sites.
        compensation: as the plan was made with.
        as_published: see `passes.compensation.compensate`.
    """
    parameters = dict(program.graph_module.named_parameters())
    scales = Prober.scales(program)
    updates, predicted = (
        dict(plan.updates),
        {name: dict(each) for name, each in plan.predicted.get("sites", {}).items()},
    )
    for site in sites:
        entry = plan.sites[site.name]
        if is_changed(site, entry, plan.updates):
            found = compensate(
                site,
                entry,
                sums_of(site, moments),
                parameters,
                compensation,
                implied_scale=scales[site.name],
                as_published=as_published,
            )
            updates.update(found.updates)
            predicted[site.name] = {"site_error": found.error}
    return replace(plan, updates=updates, predicted={**plan.predicted, "sites": predicted})


def measure_again(
    program: Program, sites: Sequence[Site], plan: SlimPlan, probes: Sequence[Sequence[Tensor]]
) -> SlimPlan:
    """Measure the error of a changed plan on the probes; what sensitivities said of the former one is dropped."""
    changes = [(site, plan.sites[site.name], plan.updates) for site in sites]
    error = Prober(program, probes).relative_mse(
        [(site, entry, updates) for site, entry, updates in changes if is_changed(site, entry, updates)]
    )
    predicted = {name: value for name, value in plan.predicted.items() if name != "relative_mse_by_sensitivities"}
    return replace(plan, fingerprint=fingerprint(program, tuple(sites)), predicted={**predicted, "relative_mse": error})
