"""Each way between a linear and attention, as a graph of a few nodes with its shapes written down."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx, nn

from passes.attention_walk import follow_mask, trace_back, trace_forward
from passes.program import Program
from passes.site_nodes import Constant
from passes.walk import Refused

ATEN = torch.ops.aten
BATCH, TOKENS, HEADS, WIDTH = 2, 6, 3, 4
CHANNELS = HEADS * WIDTH
MERGED, SPLIT, SWAPPED = [BATCH, TOKENS, CHANNELS], [BATCH, TOKENS, HEADS, WIDTH], [BATCH, HEADS, TOKENS, WIDTH]


class Graph:
    """A graph whose nodes say their shapes themselves, so that wrong ones can be written down too."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = torch.empty(MERGED, device="meta")
        self.owner = nn.Module()
        self.owner.linear, self.owner.out = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.owner.fused, self.owner.norm = nn.Linear(CHANNELS, 3 * CHANNELS), nn.LayerNorm(CHANNELS)
        self.constants: list[Constant] = []

    def call(self, target: Any, shape: list[int], *arguments: Any, **options: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments, options)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def module(self, path: str, value: fx.Node, shape: list[int] = MERGED) -> fx.Node:
        node = self.graph.call_module(path, (value,))
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def attend(self, query: fx.Node, **options: Any) -> fx.Node:
        return self.call(ATEN.scaled_dot_product_attention.default, SWAPPED, query, query, query, **options)

    def program(self, result: Any) -> Program:
        self.graph.output(result)
        return Program(fx.GraphModule(self.owner, self.graph), (torch.zeros(MERGED),), timestep=None)

    def back(self, node: fx.Node, *more: fx.Node) -> tuple[fx.Node, int]:
        attention = self.attend(node)
        program = self.program((attention, *more))
        return trace_back(program, node, attention, HEADS, WIDTH, "query", self.constants)

    def forward(self, make: Any) -> fx.Node:
        attention = self.attend(self.x)
        return trace_forward(self.program(make(attention)), attention, HEADS, WIDTH, self.constants)

    def noted(self) -> list[tuple[str, tuple[Any, ...], bool, bool]]:
        return [(each.node.name, each.argument, each.counts_units, each.counts_width) for each in self.constants]


def heads(graph: Graph, value: fx.Node, sizes: list[int] | None = None) -> fx.Node:
    view = graph.call(ATEN.view.default, SPLIT, value, sizes or SPLIT)
    return graph.call(ATEN.transpose.int, SWAPPED, view, 1, 2)


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


def merged(graph: Graph, value: fx.Node, sizes: list[int] | None = None, target: Any = ATEN.reshape.default) -> fx.Node:
    swapped = graph.call(ATEN.transpose.int, SPLIT, value, 1, 2)
    return graph.call(target, MERGED, swapped, sizes or MERGED)


@pytest.mark.parametrize("sizes", [MERGED, [BATCH, -1, CHANNELS]])
def test_merging_notes_the_product(sizes: list[int]) -> None:
    graph = Graph()
    consumer = graph.forward(lambda attention: graph.module("out", merged(graph, attention, sizes)))
    assert consumer.target == "out"
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
    consumer = graph.forward(
        lambda node: graph.module("out", graph.call(ATEN.view.default, MERGED, merged(graph, node), MERGED))
    )
    assert consumer.target == "out"
    assert len(graph.constants) == 1


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
