"""Find feed-forwards: up linear, activation, perhaps a gate, down linear, on tokens.

From a linear's input the search goes up through operators that work element by element until it meets linears. All that
lies between must stay inside: a neuron then is one output channel of the up linear (and of the gate) and one input
channel of the down linear, and nothing else sees it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from passes.program.operators import argument
from passes.program.program import Program
from passes.program.sizes import shape_of
from passes.sites.kind import Found
from passes.sites.site import Site, Slice, Unsupported
from passes.sites.site_nodes import Constant, SiteNodes
from passes.sites.walk import Ownership, Refused, common_path, is_dropout, linear_of, passes_on, readers

aten = torch.ops.aten

ACTIVATIONS = frozenset(
    {
        aten.gelu.default,
        aten.silu.default,
        aten.relu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.mish.default,
        aten.leaky_relu.default,
        aten.elu.default,
        aten.softplus.default,
        aten.hardswish.default,
        aten.relu6.default,
        aten.pow.Tensor_Scalar,
        aten.square.default,
    }
)
_PRODUCTS = frozenset({aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor})


def find_feed_forward(program: Program) -> list[Found]:
    """Find every feed-forward, in graph order; what can't be handled comes with a reason."""
    found: list[Found] = []
    ownership = Ownership(program)
    for node in program.graph.nodes:
        if linear_of(program, node) is None or len(shape_of(node)) < 3:
            continue
        region = _region(program, node)
        if region is None:
            continue
        inner, parts = region
        try:
            found.append(_match(program, node, inner, parts, ownership))
        except Refused as refusal:
            paths = [str(_source(part).target) for part in parts] + [str(node.target)]
            found.append(Unsupported(common_path(paths) or str(node.target), "feed_forward", str(refusal)))
    return found


def _region(program: Program, reader: fx.Node) -> tuple[list[fx.Node], list[fx.Node]] | None:
    """Give the elementwise nodes above a linear and the tensors that enter them, or None if it is no feed-forward.

    A tensor that enters is a linear's call or the pick of one of its halves.
    """
    start = reader.args[0]
    if not isinstance(start, fx.Node):
        return None
    width = shape_of(start)[-1]
    inner: list[fx.Node] = []
    parts: list[fx.Node] = []
    frontier, active = [start], False
    while frontier:
        node = frontier.pop()
        if node in inner or node in parts:
            continue
        if linear_of(program, node) is not None or _half(node) is not None:
            parts.append(node)
            continue
        if node.op != "call_function" or shape_of(node)[-1:] != (width,):
            return None
        if node.target in ACTIVATIONS or passes_on(program, node):
            operands: list[Any] = [node.args[0]]
        elif node.target in _PRODUCTS:
            operands = list(node.args[:2])
        else:
            return None
        active = active or node.target in ACTIVATIONS
        inner.append(node)
        tensors = [operand for operand in operands if isinstance(operand, fx.Node) and shape_of(operand)]
        if any(isinstance(operand, fx.Node) and not shape_of(operand) for operand in operands):
            return None  # a number from elsewhere, perhaps of another size
        frontier.extend(tensors)
    sources = {_source(part) for part in parts}
    # Sums of linears without an activation are residuals, not feed-forwards.
    if not active or not parts or any(linear_of(program, source) is None for source in sources):
        return None
    return inner, parts


def _half(node: fx.Node) -> tuple[fx.Node, fx.Node, int] | None:
    """If a node picks a part along the last axis, give the tensor, the node that splits it, and which part it is."""
    if getattr(node.target, "__name__", "") != "getitem" or not isinstance(node.args[0], fx.Node):
        return None
    split, index = node.args[0], node.args[1]
    if split.op != "call_function" or split.target not in (
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
    ):
        return None
    source = split.args[0]
    if not isinstance(source, fx.Node) or not isinstance(index, int):
        return None
    return (source, split, index) if argument(split, "dim") in (-1, len(shape_of(source)) - 1) else None


def _source(part: fx.Node) -> fx.Node:
    half = _half(part)
    return half[0] if half is not None else part


def _match(
    program: Program, reader: fx.Node, inner: list[fx.Node], parts: list[fx.Node], ownership: Ownership
) -> tuple[Site, SiteNodes]:
    start = reader.args[0]
    assert isinstance(start, fx.Node)
    units = shape_of(start)[-1]
    if not isinstance(units, int):
        raise Refused("the number of neurons is not fixed")
    inside = {*inner, reader}
    constants: list[Constant] = []
    offsets: dict[fx.Node, list[int]] = {}
    for part in sorted(parts):
        half = _half(part)
        source = part
        if half is not None:
            source, split, index = half
            constants.extend(_split_sizes(split, units))
            if set(readers(source)) != {split}:
                raise Refused(f"the output of {str(source.target)!r} is used elsewhere as well")
            if not all(picked in parts for picked in split.users):
                raise Refused(f"a part of the output of {str(source.target)!r} goes elsewhere")
            offsets.setdefault(source, []).append(index * units)
        else:
            offsets[source] = [0]
        if shape_of(part)[-1] != units:
            raise Refused(f"{str(source.target)!r} makes channels that are broadcast")
    for node in (*inner, *parts):
        if not set(readers(node)) <= inside:
            raise Refused(f"the hidden activation ({node.name}) is used elsewhere as well")
    for source, starts in offsets.items():
        linear = linear_of(program, source)
        assert linear is not None
        if linear.out_features != units * len(starts):
            raise Refused(f"{str(source.target)!r} makes more channels than this feed-forward takes")
    for call in (*offsets, reader):
        trouble = ownership.trouble(str(call.target))
        if trouble is not None:
            raise Refused(trouble)
    writers = [
        Slice(str(source.target), "out", start) for source, starts in offsets.items() for start in sorted(starts)
    ]
    paths = [*(str(source.target) for source in offsets), str(reader.target)]
    slices = (*writers, Slice(paths[-1], "in"))
    site = Site(common_path(paths) or paths[-1], "feed_forward", units, slices, paths[-1])
    activation = start
    while is_dropout(program, activation):
        above = activation.args[0]
        assert isinstance(above, fx.Node)
        activation = above
    nodes = SiteNodes(activation, None, None, None, reader, tuple(offsets), tuple(dict.fromkeys(constants)))
    return site, nodes


def _split_sizes(split: fx.Node, units: int) -> list[Constant]:
    if split.target is aten.chunk.default:
        return []
    if split.target is aten.split.Tensor and split.args[1] == units:
        return [Constant(split, (1,))]
    sizes = split.args[1]
    if isinstance(sizes, (list, tuple)) and all(size == units for size in sizes):
        return [Constant(split, (1, at)) for at in range(len(sizes))]
    raise Refused(f"{split.name} splits into unequal parts")
