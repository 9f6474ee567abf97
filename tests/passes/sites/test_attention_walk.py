"""Each way up from attention to a linear, as a graph of a few nodes with its shapes written down."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from torch import fx

from passes.sites.walk import Refused
from tests.passes.attention_graph import (
    ATEN,
    BATCH,
    CHANNELS,
    HEADS,
    MERGED,
    SPLIT,
    SWAPPED,
    TOKENS,
    WIDTH,
    Graph,
    heads,
)


@pytest.mark.parametrize("view", [ATEN.view.default, ATEN.reshape.default, ATEN._unsafe_view.default])
def test_a_view_notes_heads_and_width(view: Any) -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x)
    split = graph.call(view, SPLIT, linear, [BATCH, -1, HEADS, WIDTH])
    assert graph.back(graph.call(ATEN.transpose.int, SWAPPED, split, 1, 2)) == (linear, 0)
    assert graph.noted() == [(split.name, (1, 2), True, False), (split.name, (1, 3), False, True)]


@pytest.mark.parametrize(
    ("sizes", "noted"), [([BATCH, TOKENS, -1, WIDTH], (1, 3)), ([BATCH, TOKENS, HEADS, -1], (1, 2))]
)
def test_a_size_that_the_view_infers_is_not_noted(sizes: list[int], noted: tuple[int, int]) -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x)
    assert graph.back(heads(graph, linear, sizes)) == (linear, 0)
    assert [argument for _, argument, _, _ in graph.noted()] == [noted]


@pytest.mark.parametrize(
    ("sizes", "what"), [([BATCH, TOKENS, 5, WIDTH], "a head count from 5"), ([BATCH, TOKENS, HEADS, 5], "width from 5")]
)
def test_a_view_that_says_another_size_is_refused(sizes: list[int], what: str) -> None:
    graph = Graph()
    with pytest.raises(Refused, match=what):
        graph.back(heads(graph, graph.module("linear", graph.x), sizes))


def test_axes_may_be_permuted_and_counted_from_the_end() -> None:
    for target, arguments in ((ATEN.permute.default, ([0, 2, 1, 3],)), (ATEN.permute.default, ([0, -2, 1, -1],))):
        graph = Graph()
        linear = graph.module("linear", graph.x)
        split = graph.call(ATEN.view.default, SPLIT, linear, SPLIT)
        assert graph.back(graph.call(target, SWAPPED, split, *arguments)) == (linear, 0)
    graph = Graph()
    linear = graph.module("linear", graph.x)
    split = graph.call(ATEN.view.default, SPLIT, linear, SPLIT)
    assert graph.back(graph.call(ATEN.transpose.int, SWAPPED, split, -3, -2)) == (linear, 0)


def test_what_changes_nothing_is_passed() -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x)
    same = graph.call(ATEN.view.default, MERGED, graph.call(ATEN.clone.default, MERGED, linear), MERGED)
    split = graph.call(ATEN.view.default, SPLIT, same, SPLIT)
    again = graph.call(ATEN.reshape.default, SPLIT, split, SPLIT)
    # A view back to the same four axes notes its own sizes only where it makes heads out of channels.
    node = graph.call(ATEN.contiguous.default, SWAPPED, graph.call(ATEN.transpose.int, SWAPPED, again, 1, 2))
    assert graph.back(node) == (linear, 0)
    assert graph.noted() == [(split.name, (1, 2), True, False), (split.name, (1, 3), False, True)]


def test_heads_that_never_come_from_channels_are_refused() -> None:
    graph = Graph()
    with pytest.raises(Refused, match="query does not come from a linear"):
        graph.back(heads(graph, graph.x))


def test_a_node_without_a_tensor_above_is_refused() -> None:
    graph = Graph()
    with pytest.raises(Refused, match=r"stands between the query linear|does not come from a linear"):
        graph.back(graph.call(ATEN.zeros.default, SWAPPED, SWAPPED))


def test_a_module_on_the_way_is_named() -> None:
    graph = Graph()
    with pytest.raises(Refused, match="LayerNorm 'norm' stands between the query linear and attention"):
        graph.back(heads(graph, graph.module("norm", graph.module("linear", graph.x))))


def test_an_operator_on_the_way_is_named() -> None:
    graph = Graph()
    split = heads(graph, graph.module("linear", graph.x))
    with pytest.raises(Refused, match=r"mul.*stands between the query linear"):
        graph.back(graph.call(ATEN.mul.Tensor, SWAPPED, split, 2.0))


@pytest.mark.parametrize("where", ["linear", "view", "heads"])
def test_what_is_read_elsewhere_is_refused(where: str) -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x)
    split = graph.call(ATEN.view.default, SPLIT, linear, SPLIT)
    swapped = graph.call(ATEN.transpose.int, SWAPPED, split, 1, 2)
    leak = {"linear": linear, "view": split, "heads": swapped}[where]
    with pytest.raises(Refused, match="used outside this attention"):
        graph.back(swapped, graph.call(ATEN.gelu.default, list(leak.meta["val"].shape), leak))


def test_asking_for_a_size_is_no_use() -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x)
    assert graph.back(heads(graph, linear), graph.call(ATEN.sym_size.int, [], linear, 0)) == (linear, 0)


def test_a_view_that_mixes_tokens_with_heads_is_refused() -> None:
    graph = Graph()
    linear = graph.module("linear", graph.x, [BATCH, TOKENS * HEADS, WIDTH])
    with pytest.raises(Refused, match="stands between"):
        graph.back(graph.call(ATEN.view.default, SWAPPED, linear, SWAPPED))


def fused(graph: Graph, target: Any, *arguments: Any, part: int, size: int = CHANNELS) -> tuple[fx.Node, fx.Node]:
    linear = graph.module("fused", graph.x, [BATCH, TOKENS, 3 * CHANNELS])
    split = graph.graph.call_function(target, (linear, *arguments))
    picked = graph.call(operator.getitem, [BATCH, TOKENS, size], split, part)
    return linear, picked


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("axis", [2, -1])
@pytest.mark.parametrize(
    ("target", "argument", "noted"),
    [
        (ATEN.chunk.default, 3, []),
        (ATEN.split.Tensor, CHANNELS, [(1,)]),
        (ATEN.split_with_sizes.default, [CHANNELS] * 3, [(1, 0), (1, 1), (1, 2)]),
    ],
)
def test_a_part_of_a_fused_linear_starts_at_its_own_row(
    target: Any, argument: Any, noted: list[Any], axis: int, part: int
) -> None:
    graph = Graph()
    linear, picked = fused(graph, target, argument, axis, part=part)
    assert graph.back(heads(graph, picked)) == (linear, part * CHANNELS)
    splits = [(argument, units, width) for name, argument, units, width in graph.noted() if "view" not in name]
    assert splits == [(argument, True, True) for argument in noted]


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (ATEN.chunk.default, (3, 1)),
        (ATEN.chunk.default, (3,)),
        (ATEN.split.Tensor, (CHANNELS + 1, 2)),
        (ATEN.split_with_sizes.default, ([CHANNELS, 2 * CHANNELS], 2)),
        (ATEN.unbind.int, (2,)),
    ],
)
def test_parts_along_another_axis_or_unequal_ones_are_refused(target: Any, arguments: tuple[Any, ...]) -> None:
    graph = Graph()
    _, picked = fused(graph, target, *arguments, part=0)
    with pytest.raises(Refused):
        graph.back(heads(graph, picked))


def test_a_part_of_something_that_is_no_linear_is_refused() -> None:
    graph = Graph()
    wide = graph.call(ATEN.gelu.default, [BATCH, TOKENS, 3 * CHANNELS], graph.module("fused", graph.x))
    picked = graph.call(operator.getitem, MERGED, graph.graph.call_function(ATEN.chunk.default, (wide, 3, 2)), 0)
    with pytest.raises(Refused, match="no single linear makes"):
        graph.back(heads(graph, picked))


def test_a_fused_linear_that_is_read_elsewhere_is_refused() -> None:
    graph = Graph()
    linear, picked = fused(graph, ATEN.chunk.default, 3, 2, part=0)
    with pytest.raises(Refused, match="'fused' is used outside"):
        graph.back(heads(graph, picked), graph.call(ATEN.gelu.default, [BATCH, TOKENS, 3 * CHANNELS], linear))
