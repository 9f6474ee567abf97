"""Cut one site out of a program, as a small graph module that runs on small concrete tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.errors import CouplingError
from passes.program.operators import argument
from passes.program.program import Program
from passes.program.sizes import SMALL, concrete_shape, concrete_size
from passes.program.torch_private import (
    BACKWARD_HOOKS,
    BUFFERS,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    MODULES,
    PARAMETERS,
    own_parameters,
)
from passes.sites.kinds import kind_of
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes

_SPLITS = (torch.ops.aten.chunk.default, torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default)
_SIZES = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Region:
    """A site cut out of its program.

    Attributes:
        module: what makes its units to what reads them, under their own dotted paths. Parameters share the program's
            memory but are detached from it and have gradients on.
        inputs: small tensors for its placeholders.
        copies: the region's nodes in the program, with their copies in `module`.
    """

    module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    copies: Mapping[fx.Node, fx.Node]


def holds_tensor(node: fx.Node) -> bool:
    """Tell whether a node gives a tensor or a tuple of tensors, rather than a size."""
    return node.op == "output" or not isinstance(node.meta.get("val"), _SIZES)


def region_nodes(site: Site, nodes: SiteNodes) -> tuple[fx.Node, ...]:
    """List the tensor nodes from what makes the units to what reads them, both included, in graph order.

    Whatever else enters on the way (a mask, another linear) is followed back to the nearest modules and listed as well.

    Raises:
        CouplingError: a tensor of the region is used outside it, or one of the site's modules is called twice.
    """
    ends = {*nodes.writers, nodes.reader}
    for path in site.paths:
        if any(node not in ends for node in nodes.reader.graph.find_nodes(op="call_module", target=path)):
            raise _refuse(site, f"{path!r} is called more than once")
    inside: dict[fx.Node, None] = {}
    for node in _span(min(nodes.writers), nodes.reader):
        follows = node in nodes.writers or any(parent in inside for parent in node.all_input_nodes)
        if follows and holds_tensor(node):
            inside[node] = None
    if nodes.reader not in inside:
        raise _refuse(site, f"{site.tap!r} doesn't come from its writers")
    for node in inside:
        strangers = [user for user in node.users if user not in inside and holds_tensor(user)]
        if node is not nodes.reader and strangers:
            raise _refuse(site, f"its units also feed {strangers[0].name!r}, outside the site, by way of {node.name!r}")
    return tuple(sorted({*inside, *_feeders(inside, nodes)}))  # nodes compare by their place in the graph


def _span(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    """Go through the graph from one node to another, both included: a site is a small part of it."""
    node = first
    while node is not last and node.op != "root":
        yield node
        node = node.next
    if node is last:
        yield node


def _feeders(inside: dict[fx.Node, None], nodes: SiteNodes) -> set[fx.Node]:
    """Find what else enters among the units, back to the nearest modules: a forgotten linear would be there."""
    feeders: set[fx.Node] = set()
    stack = [parent for node in inside if node not in nodes.writers for parent in node.all_input_nodes]
    while stack:
        node = stack.pop()
        if (
            node in inside
            or node in feeders
            or node.op not in ("call_module", "call_function")
            or not holds_tensor(node)
        ):
            continue
        feeders.add(node)
        if node.op == "call_function":
            stack.extend(node.all_input_nodes)
    return feeders


def cut_region(program: Program, site: Site, nodes: SiteNodes, limit: int | None = SMALL) -> Region:
    """Copy the site's region out of the program, with every symbolic size replaced by a small number.

    Args:
        program: a raised program; it is only read.
        site: a site of the program.
        nodes: the site's nodes.
        limit: largest value of a symbol; None for the captured sizes.

    Raises:
        CouplingError: see `region_nodes`; or a tensor that enters the region has no known shape.
    """
    inside = region_nodes(site, nodes)
    root, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, Any] = {}
    inputs: list[Tensor] = []
    for node in inside:
        for parent in node.all_input_nodes:
            if parent in copies or parent in inside:
                continue
            value = parent.meta.get("val")
            if not holds_tensor(parent):
                copies[parent] = concrete_size(value, limit)
            elif parent.op == "get_attr" and _is_parameter(program, parent):
                # A bare weight among the units must show up in DepGraph's group, so that it is refused.
                _put(root, str(parent.target), _leaf(_attribute(program, str(parent.target))))
                copies[parent] = graph.get_attr(str(parent.target))
            elif isinstance(value, Tensor):
                copies[parent] = graph.placeholder(f"input_{len(inputs)}")
                inputs.append(_example(value, limit))
            else:
                raise _refuse(site, f"{parent.name!r} enters it without a known shape")
    for node in inside:
        if node.op == "call_module":
            _put(root, str(node.target), _module(program, site, node))
        copy = graph.node_copy(node, lambda parent: copies[parent])
        if node.target in _SPLITS:
            _count_from_the_end(copy, node)
        copies[node] = copy
    graph.output(copies[nodes.reader])
    return Region(fx.GraphModule(root, graph), tuple(inputs), {node: copies[node] for node in inside})


def _refuse(site: Site, why: str) -> CouplingError:
    return CouplingError(f"site {site.name!r}: {why}; leave this site whole")


def _example(value: Tensor, limit: int | None) -> Tensor:
    shape = concrete_shape(value, limit)
    if value.dtype.is_floating_point:
        return torch.full(shape, 0.5, dtype=value.dtype, device=value.device)
    return torch.ones(shape, dtype=value.dtype, device=value.device)


def _module(program: Program, site: Site, node: fx.Node) -> nn.Module:
    """Copy a module with detached parameters; one that acts on every unit alike becomes an identity.

    Removing units leaves it whole, and DepGraph would take its weights for the units' own.
    """
    original = program.module(str(node.target))
    value = node.meta["val"]
    if kind_of(site.kind).acts_alike(site, original, value):
        return nn.Identity()
    copy = original.__new__(type(original))
    copy.__dict__.update(original.__dict__)
    copy.__dict__[PARAMETERS] = {
        name: None if parameter is None else _leaf(parameter) for name, parameter in own_parameters(original).items()
    }
    # DepGraph sets eval mode and hooks on what it is given: none of that may reach the program's own modules.
    for registry in (FORWARD_HOOKS, FORWARD_PRE_HOOKS, BACKWARD_HOOKS, MODULES, BUFFERS):
        copy.__dict__[registry] = type(original.__dict__[registry])(original.__dict__[registry])
    return copy


def _leaf(parameter: Tensor) -> nn.Parameter:
    # DepGraph follows autograd: a frozen weight would be invisible to it.
    return nn.Parameter(parameter.detach(), requires_grad=True)


def _attribute(program: Program, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(program.module(owner), name)


def _is_parameter(program: Program, node: fx.Node) -> bool:
    return isinstance(_attribute(program, str(node.target)), nn.Parameter)


def _put(root: nn.Module, path: str, value: nn.Module | nn.Parameter) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        if not hasattr(root, owner):
            root.add_module(owner, nn.Module())
        root = root.get_submodule(owner)
    setattr(root, name, value)


def _count_from_the_end(copy: fx.Node, node: fx.Node) -> None:
    """Write a split's last dimension as -1: DepGraph keeps the mapping of that, and loses that of 2."""
    dim = argument(node, "dim")
    source = node.args[0]
    if isinstance(dim, int) and isinstance(source, fx.Node) and dim == source.meta["val"].dim() - 1:
        copy.args = (*copy.args[:2], -1)
        copy.kwargs = {key: value for key, value in copy.kwargs.items() if key != "dim"}
