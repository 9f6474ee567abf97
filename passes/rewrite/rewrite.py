"""Make the smaller program: slice linears or replace their weights, mend what the graph baked in, prove it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.errors import CouplingError, PlanError
from passes.plan.fingerprint import check_fingerprint
from passes.plan.slim_plan import SlimPlan
from passes.plan.updates import check_updates, is_changed, put_updates
from passes.program.program import Program
from passes.prove.coupling import check_coupling
from passes.prove.region import region_nodes
from passes.prove.verify import verify
from passes.rewrite.refresh_shapes import refresh_shapes
from passes.sites.find import find_sites, locate_all
from passes.sites.site import Producer, Site
from passes.sites.site_nodes import Constant


def rewrite(program: Program, plan: SlimPlan) -> Program:
    """Remove what the plan doesn't keep.

    Correct because a unit's whole effect passes through the consumer's columns that belong to it: multiplying the unit
    by zero and cutting its rows and columns are the same function. Where the plan brings new weights for a linear, they
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
    places = locate_all(slim) if changed else {}
    located = [(site, kept, plan.sites[site.name].width, places[site]) for site, kept in changed]
    for site, kept, width, nodes in located:
        if not bool(site.channels(kept, width).all()):
            check_coupling(slim, site, kept, nodes, width=width)
    for site, kept, width, nodes in located:
        region = region_nodes(site, nodes)
        slice_linears(slim.graph_module, site, kept, width)
        put_updates(slim.graph_module, site, plan.updates)
        mend_constants(site, slim_site(site, kept, width), nodes.constants)
        refresh_shapes(slim.graph_module, region)
    slim.graph_module.recompile()
    entries = [(site, plan.sites[site.name]) for site in find_sites(program)]
    verify(slim, [slim_site(site, entry.mask(), entry.width) for site, entry in entries])
    return slim


def changed_sites(program: Program, plan: SlimPlan) -> list[tuple[Site, Tensor]]:
    """List the sites that the plan changes, with their masks (bool [units]; True keeps).

    Raises:
        PlanError: the plan is of another model, or its updates don't fit.
    """
    sites = find_sites(program)
    check_fingerprint(plan, program, sites)
    check_updates(plan, sites, dict(program.graph_module.named_parameters()))
    changed = []
    for site in sites:
        entry = plan.sites.get(site.name)
        if entry is None or entry.units != site.units or entry.kind != site.kind:
            raise PlanError(
                f"site {site.name!r}: the plan doesn't have it as {site.units} {site.kind} units; plan anew"
            )
        if is_changed(site, entry, plan.updates):
            changed.append((site, entry.mask()))
    return changed


def slim_site(site: Site, kept: Tensor, width: int | None = None) -> Site:
    """Describe what a site becomes when only `kept` (bool [units]; True keeps) is left of it, each `width` wide."""
    gone = torch.ones(site.width, dtype=torch.bool)
    gone[site.columns(kept, width)] = False
    producers = []
    for producer in site.producers:
        rows = torch.cat([gone.nonzero().flatten() + offset for offset in producer.offsets])
        offsets = tuple(offset - int((rows < offset).sum()) for offset in producer.offsets)
        producers.append(Producer(producer.path, offsets))
    return replace(site, units=int(kept.sum()), unit_width=width or site.unit_width, producers=tuple(producers))


def slice_linears(model: nn.Module, site: Site, kept: Tensor, width: int | None = None) -> None:
    """Replace the site's linears, in `model`, by ones that hold only the kept rows and columns.

    Args:
        model: any module tree that has the site's linears under their paths.
        site: the site.
        kept: bool [units]; True keeps.
        width: how many channels of each kept unit stay, the first ones; None for all. What they compute then comes
            with the plan's updates.
    """
    rows: dict[str, Tensor] = {}
    for producer in site.producers:
        found = site.rows(producer, kept, width)
        rows[producer.path] = torch.cat([rows[producer.path], found]) if producer.path in rows else found
    for path, index in rows.items():
        _swap(model, path, sliced_linear(model.get_submodule(path), rows=index.sort().values))
    _swap(model, site.consumer, sliced_linear(model.get_submodule(site.consumer), columns=site.columns(kept, width)))


def sliced_linear(linear: nn.Module, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """Copy some rows or columns of a linear into a new one of that size.

    Args:
        linear: the linear; it is only read.
        rows: int64, output channels that stay, or None for all.
        columns: int64, input channels that stay, or None for all.

    Raises:
        CouplingError: it is no `nn.Linear`.
    """
    if type(linear) is not nn.Linear:
        raise CouplingError(
            f"{type(linear).__name__} is no plain nn.Linear; merge adapters or quantization wrappers first"
        )
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if rows is not None:
        rows = rows.to(weight.device)
        weight, bias = weight.index_select(0, rows), None if bias is None else bias.index_select(0, rows)
    if columns is not None:
        weight = weight.index_select(1, columns.to(weight.device))
    result = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    result.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if bias is not None:
        # Columns alone leave the bias as it is: share it.
        whole = rows is None
        result.bias = linear.bias if whole else nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return result.train(linear.training)


def mend_constants(site: Site, slim: Site, constants: Sequence[Constant]) -> None:
    """Write the slim site's unit count and width into every number that the trace baked in.

    Raises:
        CouplingError: a number isn't what the site says it is.
    """
    for constant in constants:
        node, path = constant.node, constant.argument
        expected = constant.value(site)
        found = _read((*node.args, node.kwargs), _absolute(node, path))
        if found != expected:
            raise CouplingError(
                f"site {site.name!r}: {node.name!r} holds {found} at {path} where {expected} was expected; "
                "leave this site whole"
            )
        _write(node, path, constant.value(slim))


def _swap(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)


def _absolute(node: fx.Node, path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return (len(node.args), *path) if isinstance(path[0], str) else path


def _read(value: Any, path: tuple[int | str, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _write(node: fx.Node, path: tuple[int | str, ...], number: int) -> None:
    first, *rest = path
    if isinstance(first, str):
        node.update_kwarg(first, _replaced(node.kwargs[first], rest, number))
    else:
        node.update_arg(first, _replaced(node.args[first], rest, number))


def _replaced(value: Any, path: Sequence[int | str], number: int) -> Any:
    if not path:
        return number
    if isinstance(value, Mapping):
        return {key: _replaced(item, path[1:], number) if key == path[0] else item for key, item in value.items()}
    return type(value)(
        _replaced(item, path[1:], number) if position == path[0] else item for position, item in enumerate(value)
    )
