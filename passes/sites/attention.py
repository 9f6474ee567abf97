"""Find attention: a scaled dot-product attention with its q, k and v linears and its output linear."""

from __future__ import annotations

import torch
from torch import fx

from passes.program.operators import argument
from passes.program.program import Program
from passes.program.sizes import shape_of
from passes.sites.attention_walk import VIEWS, follow_mask, trace_back, trace_forward
from passes.sites.kind import Found
from passes.sites.site import Site, Slice, Unsupported
from passes.sites.site_nodes import Constant, SiteNodes
from passes.sites.walk import Ownership, Refused, common_path, linear_of, upwards

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_MATMUL = (aten.matmul.default, aten.bmm.default, aten.baddbmm.default)


def find_attention(program: Program) -> list[Found]:
    """Find every attention, in graph order; what can't be handled comes with a reason."""
    found: list[Found] = []
    ownership = Ownership(program)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is SDPA:
            try:
                found.append(_match(program, node, ownership))
            except Refused as refusal:
                found.append(Unsupported(_name(program, node), "attention", str(refusal)))
        elif node.target in _SOFTMAX and _is_attention_softmax(node):
            found.append(
                Unsupported(
                    _name(program, node),
                    "attention",
                    "attention is written out as matmul, softmax, matmul; use a processor that calls "
                    "scaled_dot_product_attention",
                )
            )
    return found


def _name(program: Program, node: fx.Node) -> str:
    """Name an attention by the linears that feed it."""
    paths = []
    for start in node.all_input_nodes:
        for above in upwards(start):
            if linear_of(program, above) is not None:
                paths.append(str(above.target))
                break
    return (common_path(paths) if len(paths) > 1 else "".join(paths)) or node.name


def _is_attention_softmax(node: fx.Node) -> bool:
    above = any(up.op == "call_function" and up.target in _MATMUL for up in _scores(node))
    frontier, below = list(node.users), False
    while frontier:
        user = frontier.pop()
        if user.op == "call_function" and user.target in _MATMUL:
            below = True
        elif user.op == "call_function" and user.target in (aten.to.dtype, aten.dropout.default, *VIEWS):
            frontier.extend(user.users)
    return above and below


def _scores(node: fx.Node) -> list[fx.Node]:
    # a few elementwise steps (scale, mask, cast) lie between the scores and their softmax
    return [up for up, _ in zip(upwards(node), range(8), strict=False)]


def _match(program: Program, attention: fx.Node, ownership: Ownership) -> tuple[Site, SiteNodes]:
    query, key, value = (argument(attention, name) for name in ("query", "key", "value"))
    if not all(isinstance(node, fx.Node) for node in (query, key, value)):
        raise Refused("query, key and value are not all tensors")
    if argument(attention, "enable_gqa"):
        raise Refused("heads share keys and values (grouped-query attention)")
    shapes = [shape_of(node) for node in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes):
        raise Refused("query, key and value are not [batch, heads, tokens, channels]")
    heads, width = shapes[0][1], shapes[0][3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise Refused("the number of heads or their width is not fixed")
    if any(shape[1] != heads for shape in shapes):
        raise Refused("query, key and value have different numbers of heads (grouped-query attention)")
    if any(shape[3] != width for shape in shapes):
        raise Refused("heads of query, key and value differ in width")

    constants: list[Constant] = []
    roots: dict[fx.Node, dict[int, str]] = {}
    order: list[fx.Node] = []
    for name, node in (("query", query), ("key", key), ("value", value)):
        linear, offset = trace_back(program, node, attention, heads, width, name, constants)
        if linear not in roots:
            roots[linear] = {}
            order.append(linear)
        if offset in roots[linear]:
            raise Refused(f"{name} and {roots[linear][offset]} are the same channels of {linear.target!r}")
        roots[linear][offset] = name
    reader = trace_forward(program, attention, heads, width, constants)
    follow_mask(program, attention, heads, constants)

    for linear, starts in roots.items():
        module = linear_of(program, linear)
        assert module is not None
        if module.out_features != heads * width * len(starts):
            raise Refused(f"{str(linear.target)!r} makes more channels than this attention takes")
    for call in (*order, reader):
        trouble = ownership.trouble(str(call.target))
        if trouble is not None:
            raise Refused(trouble)
    paths = [str(call.target) for call in (*order, reader)]
    if len(set(paths)) < len(paths):
        raise Refused("one linear serves in two places of this attention")
    slices = (
        *(Slice(str(linear.target), "out", start, width) for linear in order for start in sorted(roots[linear])),
        Slice(str(reader.target), "in", 0, width),
    )
    site = Site(common_path(paths) or str(reader.target), "attention", heads, slices, str(reader.target))
    return site, SiteNodes(attention, query, key, value, reader, tuple(order), _unique(constants))


def _unique(constants: list[Constant]) -> tuple[Constant, ...]:
    return tuple(dict.fromkeys(constants))
