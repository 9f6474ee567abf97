"""What a mask says of heads, and what of it can't be followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from passes.sites.attention_walk import follow_mask
from passes.sites.walk import Refused
from tests.passes.attention_graph import ATEN, BATCH, HEADS, SWAPPED, TOKENS, Graph

MASK = [BATCH, HEADS, TOKENS, TOKENS]
ROW = [BATCH, 1, TOKENS]


def _mask(graph: Graph, mask: fx.Node, positional: bool = False) -> None:
    if positional:
        attention = graph.call(ATEN.scaled_dot_product_attention.default, SWAPPED, graph.x, graph.x, graph.x, mask)
    else:
        attention = graph.attend(graph.x, attn_mask=mask)
    follow_mask(graph.program(attention), attention, HEADS, graph.constants)


def _of(graph: Graph, shape: list[int]) -> fx.Node:
    return graph.call(ATEN.gelu.default, shape, graph.x)


def test_no_mask_notes_nothing() -> None:
    graph = Graph()
    attention = graph.attend(graph.x)
    follow_mask(graph.program(attention), attention, HEADS, graph.constants)
    assert graph.constants == []


@pytest.mark.parametrize(
    "shape", [[TOKENS, TOKENS], [BATCH, 1, TOKENS, TOKENS], [1, TOKENS, TOKENS], [BATCH, 1, 1, TOKENS]]
)
def test_a_mask_for_all_heads_notes_nothing(shape: list[int]) -> None:
    graph = Graph()
    _mask(graph, _of(graph, shape))
    assert graph.constants == []


@pytest.mark.parametrize("shape", [[HEADS, TOKENS, TOKENS], [BATCH, 2, TOKENS, TOKENS]])
def test_a_mask_of_another_shape_is_refused(shape: list[int]) -> None:
    graph = Graph()
    with pytest.raises(Refused, match="shape that is not understood"):
        _mask(graph, _of(graph, shape))


@pytest.mark.parametrize("positional", [False, True])
def test_a_mask_repeated_for_heads_notes_both_counts(positional: bool) -> None:
    graph = Graph()
    repeated = graph.call(ATEN.repeat_interleave.self_int, [BATCH * HEADS, 1, TOKENS], _of(graph, ROW), HEADS, 0)
    view = graph.call(ATEN.view.default, [BATCH, HEADS, 1, TOKENS], repeated, [BATCH, HEADS, -1, TOKENS])
    _mask(graph, graph.call(ATEN.to.dtype, [BATCH, HEADS, 1, TOKENS], view, torch.float32), positional)
    assert graph.noted() == [(view.name, (1, 1), True, False), (repeated.name, (1,), True, False)]


def test_a_mask_repeated_along_its_heads_notes_the_count() -> None:
    graph = Graph()
    row = _of(graph, [BATCH, 1, 1, TOKENS])
    repeated = graph.call(ATEN.repeat_interleave.self_int, [BATCH, HEADS, 1, TOKENS], row, HEADS, dim=1)
    _mask(graph, repeated)
    assert graph.noted() == [(repeated.name, (1,), True, False)]


def test_an_expanded_mask_notes_the_count() -> None:
    graph = Graph()
    expanded = graph.call(ATEN.expand.default, MASK, _of(graph, [BATCH, 1, TOKENS, TOKENS]), MASK)
    _mask(graph, expanded)
    assert graph.noted() == [(expanded.name, (1, 1), True, False)]


def _expanded_from_heads(graph: Graph) -> fx.Node:
    return graph.call(ATEN.expand.default, MASK, _of(graph, [1, HEADS, TOKENS, TOKENS]), MASK)


def _repeated_by_another_count(graph: Graph) -> fx.Node:
    # Two heads' worth of rows, each three times: heads are told apart.
    row = _of(graph, [BATCH * HEADS // 2, 1, TOKENS])
    repeated = graph.call(ATEN.repeat_interleave.self_int, [BATCH * HEADS, 1, TOKENS], row, 2, 0)
    return graph.call(ATEN.view.default, [BATCH, HEADS, 1, TOKENS], repeated, [BATCH, HEADS, 1, TOKENS])


def _repeated_along_tokens(graph: Graph) -> fx.Node:
    row = _of(graph, [BATCH * HEADS, 1, TOKENS])
    repeated = graph.call(ATEN.repeat_interleave.self_int, [BATCH * HEADS, HEADS, TOKENS], row, HEADS, 1)
    return graph.call(ATEN.view.default, [BATCH, HEADS, HEADS, TOKENS], repeated, [BATCH, HEADS, HEADS, TOKENS])


def _of_each_head(graph: Graph) -> fx.Node:
    return graph.call(ATEN.add.Tensor, MASK, _of(graph, [BATCH, 1, TOKENS, TOKENS]), _of(graph, [1, HEADS, 1, 1]))


def _reshaped_from_two_axes(graph: Graph) -> fx.Node:
    return graph.call(ATEN.view.default, MASK, _of(graph, [BATCH * HEADS * TOKENS, TOKENS]), MASK)


def _view_that_mixes_tokens(graph: Graph) -> fx.Node:
    flat = _of(graph, [BATCH * HEADS, 1, TOKENS * TOKENS])
    repeated = graph.call(ATEN.repeat_interleave.self_int, [BATCH * HEADS, 1, TOKENS * TOKENS], flat, HEADS, 0)
    return graph.call(ATEN.view.default, MASK, repeated, MASK)


def _read_elsewhere(graph: Graph) -> fx.Node:
    mask = graph.call(ATEN.expand.default, MASK, _of(graph, [BATCH, 1, TOKENS, TOKENS]), MASK)
    graph.call(ATEN.gelu.default, MASK, mask)
    return mask


@pytest.mark.parametrize(
    "make",
    [
        _expanded_from_heads,
        _repeated_by_another_count,
        _repeated_along_tokens,
        _of_each_head,
        _reshaped_from_two_axes,
        _view_that_mixes_tokens,
        _read_elsewhere,
    ],
)
def test_a_mask_that_may_tell_heads_apart_is_refused(make: Any) -> None:
    graph = Graph()
    with pytest.raises(Refused, match="the mask"):
        _mask(graph, make(graph))


def test_a_mask_that_is_an_input_by_head_is_refused() -> None:
    graph = Graph()
    graph.x.meta["val"] = torch.empty(MASK, device="meta")
    with pytest.raises(Refused, match="holds heads"):
        _mask(graph, graph.x)
