"""Each way down from attention to its output linear."""

from __future__ import annotations

from typing import Any

import pytest
from torch import fx

from passes.sites.walk import Refused
from tests.passes.attention_graph import ATEN, BATCH, CHANNELS, MERGED, SPLIT, SWAPPED, TOKENS, Graph


def merged(graph: Graph, value: fx.Node, sizes: list[int] | None = None, target: Any = ATEN.reshape.default) -> fx.Node:
    swapped = graph.call(ATEN.transpose.int, SPLIT, value, 1, 2)
    return graph.call(target, MERGED, swapped, sizes or MERGED)


@pytest.mark.parametrize("sizes", [MERGED, [BATCH, -1, CHANNELS]])
def test_merging_notes_the_product(sizes: list[int]) -> None:
    graph = Graph()
    reader = graph.forward(lambda attention: graph.module("out", merged(graph, attention, sizes)))
    assert reader.target == "out"
    assert [(argument, units, width) for _, argument, units, width in graph.noted()] == [((1, 2), True, True)]


def test_merging_that_infers_the_product_notes_nothing() -> None:
    graph = Graph()
    assert graph.forward(lambda node: graph.module("out", merged(graph, node, [BATCH, TOKENS, -1]))).target == "out"
    assert graph.noted() == []


def test_flattening_notes_nothing() -> None:
    graph = Graph()

    def flat(node: fx.Node) -> fx.Node:
        swapped = graph.call(ATEN.permute.default, SPLIT, node, [0, 2, 1, 3])
        clone = graph.call(ATEN.clone.default, SPLIT, swapped)
        return graph.module("out", graph.call(ATEN.flatten.using_ints, MERGED, clone, 2))

    assert graph.forward(flat).target == "out"
    assert graph.noted() == []


def _in_order(graph: Graph, node: fx.Node) -> fx.Node:
    # Heads of [batch, heads, tokens, width] laid side by side without being moved beside their width.
    return graph.module("out", graph.call(ATEN.reshape.default, MERGED, node, MERGED))


def _flat_too_far(graph: Graph, node: fx.Node) -> fx.Node:
    swapped = graph.call(ATEN.transpose.int, SPLIT, node, 1, 2)
    return graph.module("out", graph.call(ATEN.flatten.using_ints, [BATCH, TOKENS * CHANNELS], swapped, 1))


def _flat_in_order(graph: Graph, node: fx.Node) -> fx.Node:
    return graph.module("out", graph.call(ATEN.flatten.using_ints, MERGED, node, 2))


def _merged_by_something_else(graph: Graph, node: fx.Node) -> fx.Node:
    swapped = graph.call(ATEN.transpose.int, SPLIT, node, 1, 2)
    return graph.module("out", graph.call(ATEN.sort.default, MERGED, swapped))


def _viewed_wider(graph: Graph, node: fx.Node) -> fx.Node:
    swapped = graph.call(ATEN.transpose.int, SPLIT, node, 1, 2)
    return graph.module("out", graph.call(ATEN.view.default, [BATCH, 3, 2 * CHANNELS], swapped, [BATCH, 3, -1]))


def _never_merged(graph: Graph, node: fx.Node) -> fx.Node:
    return graph.module("out", node, SWAPPED)


def _scaled(graph: Graph, node: fx.Node) -> fx.Node:
    return graph.module("out", graph.call(ATEN.mul.Tensor, MERGED, merged(graph, node), 2.0))


def _added(graph: Graph, node: fx.Node) -> fx.Node:
    return graph.module("out", graph.call(ATEN.add.Tensor, MERGED, graph.x, merged(graph, node)))


def _normed(graph: Graph, node: fx.Node) -> fx.Node:
    return graph.module("out", graph.module("norm", merged(graph, node)))


def _twice(graph: Graph, node: fx.Node) -> Any:
    both = merged(graph, node)
    return graph.module("out", both), graph.module("linear", both)


def _nowhere(graph: Graph, node: fx.Node) -> fx.Node:
    return node


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_in_order, "goes through"),
        (_flat_too_far, "goes through"),
        (_flat_in_order, "goes through"),
        (_merged_by_something_else, "goes through"),
        (_viewed_wider, "goes through"),
        (_never_merged, "not merged before 'out'"),
        (_scaled, "goes through"),
        (_added, "goes into"),
        (_normed, "goes into norm, which is no linear"),
        (_twice, "in 2 places"),
        (_nowhere, "goes into output"),
    ],
)
def test_ways_down_that_cannot_be_followed(make: Any, reason: str) -> None:
    graph = Graph()
    with pytest.raises(Refused, match=reason):
        graph.forward(lambda node: make(graph, node))


def test_merged_channels_may_be_viewed_as_they_are() -> None:
    graph = Graph()
    reader = graph.forward(
        lambda node: graph.module("out", graph.call(ATEN.view.default, MERGED, merged(graph, node), MERGED))
    )
    assert reader.target == "out"
    assert len(graph.constants) == 1
