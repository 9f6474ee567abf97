"""Find attention: a scaled dot-product attention, walked back to its q, k, v linears and forward to its output linear.

Between those linears and attention a tensor's channels are either *merged* (one axis of heads * head_dim) or *split*
(an axis of heads, an axis of head_dim). Every node on the way is followed exactly; one that isn't understood makes the
site unsupported, with the reason: a removal that can't be followed can't be proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.program import Program
from passes.site import Producer, Site, Unsupported
from passes.site_nodes import Constant, SiteNodes
from passes.walk import (
    Ownership,
    common_path,
    linear_of,
    passes_on,
    readers,
    shape_of,
    upwards,
)

aten = torch.ops.aten
Found = tuple[Site, SiteNodes] | Unsupported
SDPA = aten.scaled_dot_product_attention.default
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_MATMUL = (aten.matmul.default, aten.bmm.default, aten.baddbmm.default)


class _Refused(Exception):
    """Why a site can't be handled."""


@dataclass(frozen=True)
class _Channels:
    """Where heads are in a tensor: axis `heads` of that many heads, axis `width` of head_dim; equal when merged."""

    heads: int
    width: int


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
            except _Refused as refusal:
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
        elif user.op == "call_function" and user.target in (aten.to.dtype, aten.dropout.default, *_VIEWS):
            frontier.extend(user.users)
    return above and below


def _scores(node: fx.Node) -> list[fx.Node]:
    # a few elementwise steps (scale, mask, cast) lie between the scores and their softmax
    return [up for up, _ in zip(upwards(node), range(8), strict=False)]


def _match(program: Program, attention: fx.Node, ownership: Ownership) -> tuple[Site, SiteNodes]:
    query, key, value = attention.args[:3]
    if not all(isinstance(node, fx.Node) for node in (query, key, value)):
        raise _Refused("query, key and value are not all tensors")
    assert isinstance(query, fx.Node)
    assert isinstance(key, fx.Node)
    assert isinstance(value, fx.Node)
    if attention.kwargs.get("enable_gqa"):
        raise _Refused("heads share keys and values (grouped-query attention)")
    shapes = [shape_of(node) for node in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes):
        raise _Refused("query, key and value are not [batch, heads, tokens, channels]")
    heads, width = shapes[0][1], shapes[0][3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise _Refused("the number of heads or their width is not fixed")
    if any(shape[1] != heads for shape in shapes):
        raise _Refused("query, key and value have different numbers of heads (grouped-query attention)")
    if any(shape[3] != width for shape in shapes):
        raise _Refused("heads of query, key and value differ in width")

    constants: list[Constant] = []
    roots: dict[fx.Node, dict[int, str]] = {}
    order: list[fx.Node] = []
    for name, node in (("query", query), ("key", key), ("value", value)):
        linear, offset = _trace_back(program, node, attention, heads, width, name, constants)
        if linear not in roots:
            roots[linear] = {}
            order.append(linear)
        if offset in roots[linear]:
            raise _Refused(f"{name} and {roots[linear][offset]} are the same channels of {linear.target!r}")
        roots[linear][offset] = name
    consumer = _trace_forward(program, attention, heads, width, constants)
    _follow_mask(program, attention, heads, constants)

    producers = tuple(Producer(str(linear.target), tuple(sorted(roots[linear]))) for linear in order)
    for linear, producer in zip(order, producers, strict=True):
        module = linear_of(program, linear)
        assert module is not None
        if module.out_features != heads * width * len(producer.offsets):
            raise _Refused(f"{producer.path!r} makes more channels than this attention takes")
    for call in (*order, consumer):
        trouble = ownership.trouble(str(call.target))
        if trouble is not None:
            raise _Refused(trouble)
    paths = [*(producer.path for producer in producers), str(consumer.target)]
    if len(set(paths)) < len(paths):
        raise _Refused("one linear serves in two places of this attention")
    site = Site(common_path(paths) or str(consumer.target), "attention", heads, width, producers, str(consumer.target))
    return site, SiteNodes(attention, query, key, value, consumer, tuple(order), _unique(constants))


def _unique(constants: list[Constant]) -> tuple[Constant, ...]:
    return tuple(dict.fromkeys(constants))


def _trace_back(
    program: Program, node: fx.Node, attention: fx.Node, heads: int, width: int, name: str, constants: list[Constant]
) -> tuple[fx.Node, int]:
    """Walk from one input of attention up to its linear; give the call and the offset in its rows."""
    channels, user, offset = _Channels(1, 3), attention, 0
    while linear_of(program, node) is None or channels.heads != channels.width:
        if node.op != "call_function":
            if node.op == "call_module":
                kind = type(program.module(str(node.target))).__name__
                raise _Refused(f"{kind} {str(node.target)!r} stands between the {name} linear and attention")
            raise _Refused(f"{name} does not come from a linear")
        if set(readers(node)) != {user}:
            raise _Refused(f"the {name} ({node.name}) is used outside this attention as well")
        part = _part(node, width * heads, width)
        if part is not None and channels.heads == channels.width:
            node, offset, extra = part
            constants.extend(extra)
            if linear_of(program, node) is None:
                raise _Refused(f"{name} is one part of something that no single linear makes")
            return node, offset
        channels = _before(program, node, channels, heads, width, name, constants)
        parent = node.args[0]
        if not isinstance(parent, fx.Node):
            raise _Refused(f"{name} does not come from a linear")
        user, node = node, parent
    if set(readers(node)) != {user}:
        raise _Refused(f"the output of {str(node.target)!r} is used outside this attention as well")
    return node, offset


def _part(node: fx.Node, size: int, width: int) -> tuple[fx.Node, int, list[Constant]] | None:
    """If a node picks a part of `size` channels from a fused linear, give the linear, the offset, and baked sizes."""
    if getattr(node.target, "__name__", "") != "getitem" or not isinstance(node.args[0], fx.Node):
        return None
    split, index = node.args[0], node.args[1]
    if split.op != "call_function" or not isinstance(split.args[0], fx.Node) or not isinstance(index, int):
        return None
    source = split.args[0]
    rank = len(shape_of(source))
    axis = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    if axis not in (-1, rank - 1) or shape_of(node)[-1] != size:
        return None
    if set(readers(source)) != {split}:
        raise _Refused(f"the output of {str(source.target)!r} is used outside this attention as well")
    if split.target is aten.chunk.default:
        return source, index * size, []
    if split.target is aten.split.Tensor and split.args[1] == size:
        return source, index * size, [Constant(split, (1,), counts_width=True)]
    if split.target is aten.split_with_sizes.default:
        sizes = split.args[1]
        if isinstance(sizes, (list, tuple)) and all(part == size for part in sizes):
            return source, index * size, [Constant(split, (1, at), counts_width=True) for at in range(len(sizes))]
    return None


def _before(
    program: Program,
    node: fx.Node,
    after: _Channels,
    heads: int,
    width: int,
    name: str,
    constants: list[Constant],
) -> _Channels:
    """Give where heads are in a node's input, from where they are in its output."""
    rank = len(shape_of(node))
    if passes_on(program, node):
        return after
    order = _permutation(node, rank)
    if order is not None:
        return _Channels(order[after.heads], order[after.width])
    if node.target in _VIEWS and isinstance(node.args[0], fx.Node):
        source, result = shape_of(node.args[0]), shape_of(node)
        if (
            (after.heads, after.width) == (rank - 2, rank - 1)
            and result[-2:] == (heads, width)
            and source[-1] == heads * width
        ):
            _note(node, rank - 2, heads, constants)
            _note(node, rank - 1, width, constants, counts_units=False, counts_width=True)
            return _Channels(len(source) - 1, len(source) - 1)
        if source == result:
            return after
    raise _Refused(f"{node.target} ({node.name}) stands between the {name} linear and attention")


def _permutation(node: fx.Node, rank: int) -> list[int] | None:
    """If a node only reorders axes, give for every axis of its output the axis of its input."""
    if node.target is aten.transpose.int:
        first, second = (int(axis) % rank for axis in node.args[1:3])  # type: ignore[arg-type]
        order = list(range(rank))
        order[first], order[second] = second, first
        return order
    if node.target is aten.permute.default:
        return [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    return None


def _note(
    node: fx.Node,
    at: int,
    value: int,
    constants: list[Constant],
    *,
    counts_units: bool = True,
    counts_width: bool = False,
) -> None:
    """Note a baked size of a view, unless the view infers it."""
    sizes: Any = node.args[1]
    if sizes[at] == value and isinstance(sizes[at], int):
        constants.append(Constant(node, (1, at), counts_units, counts_width))
    elif sizes[at] != -1:
        what = "a head count" if counts_units else "a head's width"
        raise _Refused(f"{node.name} takes {what} from {sizes[at]}, which can't be followed")


def _trace_forward(program: Program, attention: fx.Node, heads: int, width: int, constants: list[Constant]) -> fx.Node:
    """Walk from attention's output down to the output linear."""
    node, channels = attention, _Channels(1, 3)
    while True:
        users = readers(node)
        if len(users) != 1:
            raise _Refused(f"attention's output ({node.name}) is used in {len(users)} places")
        user = users[0]
        if linear_of(program, user) is not None:
            rank = len(shape_of(node))
            if (channels.heads, channels.width) != (rank - 1, rank - 1):
                raise _Refused(f"heads are not merged before {str(user.target)!r}")
            return user
        if user.op != "call_function":
            raise _Refused(f"attention's output goes into {user.target}, which is no linear")
        channels = _after(program, user, node, channels, heads, width, constants)
        node = user


def _after(
    program: Program,
    user: fx.Node,
    node: fx.Node,
    before: _Channels,
    heads: int,
    width: int,
    constants: list[Constant],
) -> _Channels:
    rank = len(shape_of(node))
    if user.args[0] is not node:
        raise _Refused(f"attention's output goes into {user.target} ({user.name})")
    if passes_on(program, user):
        return before
    order = _permutation(user, rank)
    if order is not None:
        return _Channels(order.index(before.heads), order.index(before.width))
    if user.target in _VIEWS:
        result = shape_of(user)
        if (before.heads, before.width) == (rank - 2, rank - 1) and result[-1] == heads * width:
            _note(user, len(result) - 1, heads * width, constants, counts_width=True)
            return _Channels(len(result) - 1, len(result) - 1)
        if result == shape_of(node):
            return before
    if user.target is aten.flatten.using_ints and (before.heads, before.width) == (rank - 2, rank - 1):
        # its arguments are axes, so nothing is baked
        flat = shape_of(user)
        if len(flat) == rank - 1 and flat[-1] == heads * width:
            return _Channels(rank - 2, rank - 2)
    raise _Refused(f"attention's output goes through {user.target} ({user.name})")


def _follow_mask(program: Program, attention: fx.Node, heads: int, constants: list[Constant]) -> None:
    """List the head counts that a mask carries; refuse a mask that says something else to every head."""
    mask = attention.args[3] if len(attention.args) > 3 else attention.kwargs.get("attn_mask")
    if mask is None:
        return
    assert isinstance(mask, fx.Node)
    shape = shape_of(mask)
    if len(shape) < 3 or shape[-3] == 1:
        return
    if len(shape) != 4 or shape[1] != heads:
        raise _Refused("the mask has a shape that is not understood")
    node, user, axis = mask, attention, 1
    while True:
        if set(readers(node)) != {user} or node.op != "call_function":
            raise _Refused("the mask holds heads in a way that is not understood")
        if passes_on(program, node):
            pass
        elif node.target is aten.repeat_interleave.self_int and _repeat_axis(node) == axis and node.args[1] == heads:
            # every head gets a copy of the same row
            constants.append(Constant(node, (1,)))
            if axis == 1 and shape_of(node.args[0])[1:2] not in ((1,),) and len(shape_of(node)) == 4:  # type: ignore[arg-type]
                raise _Refused("the mask holds heads in a way that is not understood")
            return
        elif node.target is aten.expand.default and axis == 1 and shape_of(node.args[0])[-3:-2] == (1,):  # type: ignore[arg-type]
            _note(node, 1, heads, constants)
            return
        elif node.target in _VIEWS and axis == 1 and len(shape_of(node.args[0])) == 3:  # type: ignore[arg-type]
            # [batch * heads, ...] -> [batch, heads, ...]
            _note(node, 1, heads, constants)
            if shape_of(node.args[0])[-1] != shape_of(node)[-1]:  # type: ignore[arg-type]
                raise _Refused("the mask holds heads in a way that is not understood")
            axis = 0
        else:
            raise _Refused(f"the mask goes through {node.target} ({node.name})")
        parent = node.args[0]
        assert isinstance(parent, fx.Node)
        user, node = node, parent


def _repeat_axis(node: fx.Node) -> Any:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("dim")
