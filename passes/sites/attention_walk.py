"""Follow an attention's heads: back to the linears that make them, forward to the linear that reads them.

Between those linears and attention a tensor's channels are either *merged* (one axis of heads * head_dim) or *split*
(an axis of heads, an axis of head_dim). Every node on the way is followed exactly; one that isn't understood makes the
site unsupported, with the reason: a removal that can't be followed can't be proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from passes.program.operators import argument
from passes.program.program import Program
from passes.program.sizes import shape_of
from passes.sites.site_nodes import Constant
from passes.sites.walk import Refused, linear_of, passes_on, readers

aten = torch.ops.aten
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_SPLITS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default)


@dataclass(frozen=True)
class _Channels:
    """Where heads are in a tensor: axis `heads` of that many heads, axis `width` of head_dim; equal when merged."""

    heads: int
    width: int


def trace_back(
    program: Program, node: fx.Node, attention: fx.Node, heads: int, width: int, name: str, constants: list[Constant]
) -> tuple[fx.Node, int]:
    """Walk from one input of attention up to its linear.

    Args:
        program: that has the attention.
        node: the input.
        attention: the call that takes it.
        heads: how many.
        width: of a head.
        name: of the input, for messages.
        constants: sizes that are baked into the graph on the way are added to it.

    Returns:
        the linear's call, and the input's first row in the linear's weight.

    Raises:
        Refused: something on the way isn't understood, or is used elsewhere too.
    """
    channels, user, offset = _Channels(1, 3), attention, 0
    while linear_of(program, node) is None or channels.heads != channels.width:
        if node.op != "call_function":
            if node.op == "call_module":
                kind = type(program.module(str(node.target))).__name__
                raise Refused(f"{kind} {str(node.target)!r} stands between the {name} linear and attention")
            raise Refused(f"{name} does not come from a linear")
        if set(readers(node)) != {user}:
            raise Refused(f"the {name} ({node.name}) is used outside this attention as well")
        part = _part(node, width * heads, width)
        if part is not None and channels.heads == channels.width:
            node, offset, extra = part
            constants.extend(extra)
            if linear_of(program, node) is None:
                raise Refused(f"{name} is one part of something that no single linear makes")
            return node, offset
        channels = _before(program, node, channels, heads, width, name, constants)
        parent = node.args[0]
        if not isinstance(parent, fx.Node):
            raise Refused(f"{name} does not come from a linear")
        user, node = node, parent
    if set(readers(node)) != {user}:
        raise Refused(f"the output of {str(node.target)!r} is used outside this attention as well")
    return node, offset


def _part(node: fx.Node, size: int, width: int) -> tuple[fx.Node, int, list[Constant]] | None:
    """If a node picks a part of `size` channels from a fused linear, give the linear, the offset, and baked sizes."""
    if getattr(node.target, "__name__", "") != "getitem" or not isinstance(node.args[0], fx.Node):
        return None
    split, index = node.args[0], node.args[1]
    if split.target not in _SPLITS or not isinstance(split.args[0], fx.Node) or not isinstance(index, int):
        return None
    source = split.args[0]
    rank = len(shape_of(source))
    if argument(split, "dim") not in (-1, rank - 1) or shape_of(node)[-1] != size:
        return None
    if set(readers(source)) != {split}:
        raise Refused(f"the output of {str(source.target)!r} is used outside this attention as well")
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
    if node.target in VIEWS and isinstance(node.args[0], fx.Node):
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
    raise Refused(f"{node.target} ({node.name}) stands between the {name} linear and attention")


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
        raise Refused(f"{node.name} takes {what} from {sizes[at]}, which can't be followed")


def trace_forward(program: Program, attention: fx.Node, heads: int, width: int, constants: list[Constant]) -> fx.Node:
    """Walk from attention's output down to the output linear's call, and add baked sizes to `constants`.

    Raises:
        Refused: something on the way isn't understood, or there are two ways.
    """
    node, channels = attention, _Channels(1, 3)
    while True:
        users = readers(node)
        if len(users) != 1:
            raise Refused(f"attention's output ({node.name}) is used in {len(users)} places")
        user = users[0]
        if linear_of(program, user) is not None:
            rank = len(shape_of(node))
            if (channels.heads, channels.width) != (rank - 1, rank - 1):
                raise Refused(f"heads are not merged before {str(user.target)!r}")
            return user
        if user.op != "call_function":
            raise Refused(f"attention's output goes into {user.target}, which is no linear")
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
        raise Refused(f"attention's output goes into {user.target} ({user.name})")
    if passes_on(program, user):
        return before
    order = _permutation(user, rank)
    if order is not None:
        return _Channels(order.index(before.heads), order.index(before.width))
    if user.target in VIEWS:
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
    raise Refused(f"attention's output goes through {user.target} ({user.name})")


def follow_mask(program: Program, attention: fx.Node, heads: int, constants: list[Constant]) -> None:
    """Add the head counts that a mask carries to `constants`.

    Raises:
        Refused: the mask says something else to every head, or holds heads in a way that isn't understood.
    """
    mask = argument(attention, "attn_mask")
    if mask is None:
        return
    assert isinstance(mask, fx.Node)
    shape = shape_of(mask)
    if len(shape) < 3 or shape[-3] == 1:
        return
    if len(shape) != 4 or shape[1] != heads:
        raise Refused("the mask has a shape that is not understood")
    node, user, axis = mask, attention, 1
    while True:
        if set(readers(node)) != {user} or node.op != "call_function":
            raise Refused("the mask holds heads in a way that is not understood")
        if passes_on(program, node):
            pass
        elif node.target is aten.repeat_interleave.self_int and argument(node, "dim") == axis and node.args[1] == heads:
            # every head gets a copy of the same row
            constants.append(Constant(node, (1,)))
            if axis == 1 and shape_of(node.args[0])[1:2] not in ((1,),) and len(shape_of(node)) == 4:  # type: ignore[arg-type]
                raise Refused("the mask holds heads in a way that is not understood")
            return
        elif node.target is aten.expand.default and axis == 1 and shape_of(node.args[0])[-3:-2] == (1,):  # type: ignore[arg-type]
            _note(node, 1, heads, constants)
            return
        elif node.target in VIEWS and axis == 1 and len(shape_of(node.args[0])) == 3:  # type: ignore[arg-type]
            # [batch * heads, ...] -> [batch, heads, ...]
            _note(node, 1, heads, constants)
            if shape_of(node.args[0])[-1] != shape_of(node)[-1]:  # type: ignore[arg-type]
                raise Refused("the mask holds heads in a way that is not understood")
            axis = 0
        else:
            raise Refused(f"the mask goes through {node.target} ({node.name})")
        parent = node.args[0]
        assert isinstance(parent, fx.Node)
        user, node = node, parent
