"""The oracle: the dense program with the removed units multiplied by zero, and new weights in the dense shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from passes.errors import CouplingError
from passes.plan.slim_plan import SlimPlan
from passes.plan.updates import changed_sites, dense_parameters
from passes.program.program import Program
from passes.program.torch_private import PARAMETERS, own_parameters
from passes.sites.find import locate_in_copy
from passes.sites.kinds import kind_of
from passes.sites.site import Site
from passes.sites.site_nodes import implied_scale


def mask(program: Program, plan: SlimPlan) -> Program:
    """Multiply the units that the plan doesn't keep by zero, and put its updates in, padded with zeros.

    Every module keeps its dense shape, so this says what a plan means without sharing any of the code that cuts weights
    or mends sizes. The channels that a narrower head loses are zero in its padded projections.

    Args:
        program: a raised program; its graph and weights are left as they are.
        plan: which units stay; made for this program.

    Returns:
        A new program of the same state-dict keys; all weights but the updated ones are shared with `program`.

    Raises:
        PlanError: the plan is of another model.
        CouplingError: a site's activation doesn't have its units where they are said to be.
    """
    changed = changed_sites(program, plan)
    masked = program.copy()
    located = locate_in_copy(program, masked, [site for site, _ in changed])
    parameters = dict(program.graph_module.named_parameters())
    for number, ((site, kept), nodes) in enumerate(zip(changed, located, strict=True)):
        scaled = implied_scale(nodes)
        new = dense_parameters(site, plan.sites[site.name], plan.updates, parameters, implied_scale=scaled)
        for path in site.paths:
            _replace_parameters(masked, path, new)
        if not bool(kept.all()):
            _multiply(masked, site, kept, nodes.activation, f"_keep_{number}")
    masked.graph_module.recompile()
    masked.graph.lint()
    return masked


def _replace_parameters(program: Program, path: str, new: Mapping[str, Tensor]) -> None:
    """Give a module of the copy new parameters, without touching the module that the original program holds."""
    names = [name for name in ("weight", "bias") if f"{path}.{name}" in new]
    if not names:
        return
    module = copy.copy(program.module(path))
    vars(module)[PARAMETERS] = dict(own_parameters(module))
    for name in names:
        own_parameters(module)[name] = nn.Parameter(new[f"{path}.{name}"], requires_grad=False)
    owner, _, last = path.rpartition(".")
    setattr(program.module(owner), last, module)


def _multiply(program: Program, site: Site, kept: Tensor, activation: fx.Node, name: str) -> None:
    value = activation.meta["val"]
    axis = kind_of(site.kind).mask_axis
    if value.dim() <= max(axis, 0) or value.shape[axis] != site.units:
        raise CouplingError(
            f"site {site.name!r}: {activation.name!r} of shape {tuple(value.shape)} has no {site.units} units"
        )
    behind = value.dim() - 1 - axis % value.dim()
    factor = kept.to(value.dtype).to(value.device).reshape(-1, *[1] * behind)
    program.graph_module.register_buffer(name, factor, persistent=False)
    with program.graph.inserting_after(activation):
        keep = program.graph.get_attr(name)
    with program.graph.inserting_after(keep):
        product = program.graph.call_function(torch.ops.aten.mul.Tensor, (activation, keep))
    product.meta["val"] = value
    mode = getattr(value, "fake_mode", None)
    keep.meta["val"] = factor if mode is None else mode.from_tensor(factor, static_shapes=True)
    activation.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
