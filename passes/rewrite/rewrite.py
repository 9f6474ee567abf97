"""Make the smaller program: slice modules or replace their weights, mend what the graph baked in, prove it first."""

from __future__ import annotations

from passes.plan.slim_plan import SlimPlan
from passes.plan.updates import changed_sites
from passes.program.program import Program
from passes.prove.coupling import check_coupling
from passes.prove.region import region_nodes
from passes.prove.verify import verify
from passes.rewrite.constants import mend_constants
from passes.rewrite.refresh_shapes import refresh_shapes
from passes.rewrite.slicing import put_updates, slice_modules, slim_site
from passes.sites.find import find_sites, locate_in_copy


def rewrite(program: Program, plan: SlimPlan) -> Program:
    """Remove what the plan doesn't keep.

    Correct because a unit's whole effect passes through the reader's columns that belong to it: multiplying the unit
    by zero and cutting its rows and columns are the same function. Where the plan brings new weights for a module, they
    take the place of the sliced ones.

    Args:
        program: a raised program; its graph and weights are left as they are.
        plan: which units stay; made for this program.

    Returns:
        A new program. Weights of untouched modules are shared with `program`, new ones with the plan; sliced ones are
        new. `passes.program.ownership.owned` gives it its own.

    Raises:
        PlanError: the plan is of another model, or its updates don't fit.
        CouplingError: a removal would reach weights outside its site, or a baked size isn't what the site says.
        VerificationError: the result is malformed.
    """
    changed = changed_sites(program, plan)
    slim = program.copy()
    places = locate_in_copy(program, slim, [site for site, _ in changed])
    located = [
        (site, kept, plan.sites[site.name].width, nodes) for (site, kept), nodes in zip(changed, places, strict=True)
    ]
    for site, kept, width, nodes in located:
        if not bool(site.channels(kept, width).all()):
            check_coupling(slim, site, kept, nodes, width=width)
    for site, kept, width, nodes in located:
        region = region_nodes(site, nodes)
        slice_modules(slim.graph_module, site, kept, width)
        put_updates(slim.graph_module, site, plan.updates)
        mend_constants(site, slim_site(site, kept, width), nodes.constants)
        refresh_shapes(slim.graph_module, region)
    slim.graph_module.recompile()
    entries = [(site, plan.sites[site.name]) for site in find_sites(program)]
    verify(slim, [slim_site(site, entry.mask(), entry.width) for site, entry in entries])
    return slim
