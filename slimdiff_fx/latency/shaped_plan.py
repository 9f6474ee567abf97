"""Plans by shape alone: for questions of speed, where weights don't matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from passes.plan.fingerprint import fingerprint
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import slim_shapes
from passes.program.program import Program
from passes.sites.site import Site, axes_gone, staying
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
    return SlimPlan(fingerprint(program, sites), entries, {}, updates, found={site.name: site for site in sites})


def _first_channels(site: Site, entry: SitePlan, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights of the right shape for a site whose heads become narrower."""
    gone = site.gone(entry.mask(), entry.width)
    made = {}
    for name, _ in slim_shapes(site, entry, parameters):
        value = parameters[name].detach()
        axes = axes_gone(name.rpartition(".")[0], value.dim(), gone)
        for axis, channels in axes.items():
            value = value.index_select(axis, staying(value.shape[axis], channels).to(value.device))
        if axes:
            made[name] = value
    return made
