"""Plans by shape alone: for questions of speed, where weights don't matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from passes.plan.fingerprint import plan_for
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import slim_shapes
from passes.program.program import Program
from passes.sites.site import Site, axes_gone, without
from passes.solve.error_curves import Size


def shaped_plan(program: Program, sites: Sequence[Site], sizes: Mapping[str, Size]) -> SlimPlan:
    """Keep the first units, and the first channels of each head.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        sizes: by site name.
    """
    parameters = dict(program.graph_module.named_parameters())
    entries: dict[str, SitePlan] = {}
    updates: dict[str, Tensor] = {}
    for site in sites:
        units, width = sizes[site.name]
        narrower = width < site.unit_width
        entries[site.name] = SitePlan(site.kind, site.units, tuple(range(units)), width if narrower else None)
        if narrower:
            updates |= _first_channels(site, entries[site.name], parameters)
    return plan_for(program, sites, entries, updates=updates)


def _first_channels(site: Site, entry: SitePlan, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights of the right shape for a site whose heads become narrower."""
    gone = site.gone(entry.mask(), entry.width)
    made = {}
    for name, _ in slim_shapes(site, entry, parameters):
        dense = parameters[name].detach()
        axes = axes_gone(name.rpartition(".")[0], dense.dim(), gone)
        if axes:
            made[name] = without(dense, axes)
    return made
