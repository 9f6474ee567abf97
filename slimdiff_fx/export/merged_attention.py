"""Attention over merged heads as one operator, so that an exporter meets it whole and not in fourteen pieces.

A captured attention is three views, three transposes, a scaled dot product, and a transpose and a reshape back. Here
they become one node that takes and gives [B, T, heads * head_dim], as the Attention operators of ONNX and of ONNX
Runtime do. Correct because it computes the same views of the same tensors; nothing is assumed about the width of a
head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from passes.program.operators import argument
from passes.program.program import Program

aten = torch.ops.aten
_SDPA = aten.scaled_dot_product_attention.default
_VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)


@torch.library.custom_op("slimdiff_fx::attend", mutates_args=())
def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int, scale: float | None = None
) -> Tensor:
    """Attend over merged heads.

    Args:
        query: float [B, T, heads * width].
        key: float [B, S, heads * width].
        value: float [B, S, heads * width of a value].
        mask: float or bool, anything that broadcasts to [B, heads, T, S], or None; as in PyTorch's own attention.
        heads: how many.
        scale: of the scores; None for 1/√width.

    Returns:
        float [B, T, heads * width of a value].
    """
    q, k, v = (tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2) for tensor in (query, key, value))
    result = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return result.transpose(1, 2).flatten(2).contiguous()


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int, scale: float | None = None) -> Tensor:
    return query.new_empty((query.shape[0], query.shape[1], value.shape[2]))


ATTEND = torch.ops.slimdiff_fx.attend.default


def merge_attention(program: Program) -> Program:
    """Give the program with each attention as one node; one of another form than diffusers' own stays as it is."""
    merged = program.copy()
    graph = merged.graph
    for node in list(graph.nodes):
        if node.target is not _SDPA:
            continue
        found = _match(node)
        if found is None:
            continue
        with graph.inserting_before(node):
            call = graph.call_function(ATTEND, (*found.sources, found.mask, found.heads, found.scale))
        call.meta["val"] = found.result.meta["val"]
        found.result.replace_all_uses_with(call)
        # By hand: attention can draw random numbers, so that no clean-up would take it for dead.
        for dead in (found.result, found.transpose, node):
            graph.erase_node(dead)
    graph.eliminate_dead_code()
    graph.lint()
    merged.graph_module.recompile()
    return merged


@dataclass(frozen=True)
class _Attention:
    sources: list[fx.Node]
    mask: fx.Node | None
    heads: int
    scale: float | None
    transpose: fx.Node
    result: fx.Node


def _match(node: fx.Node) -> _Attention | None:
    """Recognize views, transposes, attention, transpose, reshape around a scaled dot product."""
    if any(argument(node, name) for name in ("dropout_p", "is_causal", "enable_gqa")):
        return None
    split = [argument(node, name) for name in ("query", "key", "value")]
    sources = [source for source in map(_merged_source, split) if source is not None]
    result = _merged_result(node)
    heads = {part.meta["val"].shape[1] for part in split}
    if result is None or len(sources) < 3 or len(heads) > 1:
        return None
    return _Attention(sources, argument(node, "attn_mask"), heads.pop(), argument(node, "scale"), *result)


def _merged_source(node: Any) -> fx.Node | None:
    """Give what [B, heads, T, width] was made of by a view and a transpose, if that is [B, T, heads * width]."""
    view = _swapped(node)
    if view is None or view.target not in _VIEWS:
        return None
    source = view.args[0]
    if not isinstance(source, fx.Node):
        return None
    before, after = source.meta["val"].shape, view.meta["val"].shape
    return source if _splits(before, after) else None


def _merged_result(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Give the transpose and the reshape that merge the heads again, if nothing else reads them."""
    if len(node.users) != 1:
        return None
    transpose = next(iter(node.users))
    if _swapped(transpose) is not node or len(transpose.users) != 1:
        return None
    reshape = next(iter(transpose.users))
    if reshape.target not in _VIEWS:
        return None
    merges = _splits(reshape.meta["val"].shape, transpose.meta["val"].shape)
    return (transpose, reshape) if merges else None


def _swapped(node: Any) -> fx.Node | None:
    """Give the input of a node that swaps dimensions 1 and 2 of four."""
    if not isinstance(node, fx.Node) or not isinstance(node.args[0] if node.args else None, fx.Node):
        return None
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    swaps = (node.target is aten.transpose.int and {*node.args[1:]} == {1, 2}) or (
        node.target is aten.permute.default and list(node.args[1]) == [0, 2, 1, 3]  # type: ignore[arg-type]
    )
    return source if swaps and node.meta["val"].dim() == 4 else None


def _splits(merged: torch.Size, split: torch.Size) -> bool:
    """Say whether [B, T, heads, width] splits the last dimension of [B, T, heads * width] and nothing else."""
    if len(merged) != 3 or len(split) != 4 or not all(isinstance(size, int) for size in (merged[2], *split[2:])):
        return False
    # Symbols are compared as they are written: to ask a symbolic size for equality would add a guard.
    same = all(str(a) == str(b) for a, b in zip(merged[:2], split[:2], strict=True))
    return same and merged[2] == split[2] * split[3]
