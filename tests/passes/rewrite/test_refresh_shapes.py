"""`meta["val"]` after units are gone: new numbers, old symbols."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from passes.errors import CouplingError
from passes.prove.region import region_nodes
from passes.rewrite.refresh_shapes import refresh_shapes
from passes.rewrite.slicing import slice_modules
from tests.passes.hand_graphs import (
    HEAD_DIM,
    HEADS,
    NEURONS,
    WIDTH,
    Gated,
    PlainAttention,
    attention_site,
    feed_forward_site,
    hand_nodes,
    hand_program,
)

ATEN = torch.ops.aten
QKV = attention_site("q", "k", "v")
GEGLU = feed_forward_site(("up", (0, NEURONS)))


def _kept(units: int, count: int) -> Tensor:
    return torch.arange(units) < count


def test_feed_forward() -> None:
    program = hand_program(Gated())
    nodes = region_nodes(GEGLU, hand_nodes(program, GEGLU))
    batch, tokens, _ = nodes[0].meta["val"].shape
    slice_modules(program.graph_module, GEGLU, _kept(NEURONS, 5))
    refresh_shapes(program.graph_module, nodes)
    by_target = {node.target: node.meta["val"] for node in nodes}
    assert by_target["up"].shape[2] == 10
    assert [part.shape[2] for part in by_target[ATEN.chunk.default]] == [5, 5]
    assert by_target[ATEN.mul.Tensor].shape == (batch, tokens, 5)
    assert by_target["down"].shape == (batch, tokens, WIDTH)


def test_attention_keeps_layout_and_refuses_stale_head_counts() -> None:
    program = hand_program(PlainAttention())
    nodes = region_nodes(QKV, hand_nodes(program, QKV))
    slice_modules(program.graph_module, QKV, _kept(HEADS, 3))
    with pytest.raises(CouplingError, match="fit together"):
        refresh_shapes(program.graph_module, nodes)  # the views still say four heads
    for node in nodes:
        if node.target is ATEN.view.default:
            node.args = (node.args[0], [node.args[1][0], -1, 3, HEAD_DIM])
        if node.target is ATEN.reshape.default:
            node.args = (node.args[0], [node.args[1][0], -1, 3 * HEAD_DIM])
    refresh_shapes(program.graph_module, nodes)
    heads = next(node.meta["val"] for node in nodes if node.target is ATEN.transpose.int)
    assert (heads.shape[1], heads.shape[3]) == (3, HEAD_DIM)
    assert heads.stride(1) == HEAD_DIM
    assert heads.stride(2) == 3 * HEAD_DIM


def test_units_inside_a_dynamic_size() -> None:
    """A mask repeated for each head has batch * heads rows."""

    class Repeated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = ATEN.repeat_interleave.self_int(x, HEADS, 0)
            return result

    program = hand_program(Repeated())
    node: fx.Node = next(node for node in program.graph.nodes if node.op == "call_function")
    batch = program.args[0].shape[0]
    node.args = (node.args[0], 3, 0)
    refresh_shapes(program.graph_module, [node])
    size = node.meta["val"].shape[0]
    hints = size.node.shape_env.backed_var_to_val if isinstance(size, torch.SymInt) else {}
    assert (int(size.node.expr.xreplace(hints)) if hints else size) == 3 * batch
