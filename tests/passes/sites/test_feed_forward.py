"""Each form of a feed-forward, and what only looks like one, as graphs of a few nodes."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx, nn

from passes.program.program import Program
from passes.sites.feed_forward import find_feed_forward
from passes.sites.site import Site, Unsupported
from tests.sites import Writer, linear_site

ATEN = torch.ops.aten
WIDTH, NEURONS = 4, 6
TOKENS, HIDDEN, BOTH = [2, 5, WIDTH], [2, 5, NEURONS], [2, 5, 2 * NEURONS]


class Graph:
    """A graph whose nodes say their shapes themselves."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = torch.empty(TOKENS, device="meta")
        block = nn.Module()
        block.up, block.gate, block.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
        block.both, block.norm, block.drop = nn.Linear(4, 12), nn.LayerNorm(6), nn.Dropout(0.5)
        block.narrow = nn.Linear(4, 1)
        self.owner = nn.Module()
        self.owner.block = block
        self.owner.gain = nn.Parameter(torch.ones(6))

    def call(self, target: Any, shape: list[int], *arguments: Any, **options: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments, options)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def module(self, path: str, value: fx.Node, shape: list[int]) -> fx.Node:
        node = self.graph.call_module(f"block.{path}", (value,))
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def up(self, path: str = "up") -> fx.Node:
        return self.module(path, self.x, HIDDEN)

    def down(self, hidden: fx.Node, shape: list[int] = TOKENS) -> fx.Node:
        return self.module("down", hidden, shape)

    def halves(self, target: Any = ATEN.chunk.default, *arguments: Any) -> tuple[fx.Node, fx.Node]:
        source = self.module("both", self.x, BOTH)
        split = self.graph.call_function(target, (source, *(arguments or (2, -1))))
        first, second = (self.call(operator.getitem, HIDDEN, split, at) for at in range(2))
        return first, second

    def found(self, result: Any) -> list[Any]:
        self.graph.output(result)
        return find_feed_forward(Program(fx.GraphModule(self.owner, self.graph), (torch.zeros(TOKENS),), timestep=None))


def gelu(graph: Graph, value: fx.Node) -> fx.Node:
    return graph.call(ATEN.gelu.default, HIDDEN, value)


def mul(graph: Graph, left: Any, right: Any, target: Any = ATEN.mul.Tensor) -> fx.Node:
    return graph.call(target, HIDDEN, left, right)


def site(*writers: Writer) -> Site:
    return linear_site("block", "feed_forward", NEURONS, 1, writers, "block.down")


@pytest.mark.parametrize(
    "activation",
    [ATEN.gelu.default, ATEN.silu.default, ATEN.relu.default, ATEN.tanh.default, ATEN.square.default],
)
def test_up_activation_down(activation: Any) -> None:
    graph = Graph()
    up = graph.up()
    hidden = graph.call(activation, HIDDEN, up)
    down = graph.down(hidden)
    ((found, nodes),) = graph.found(down)
    assert found == site("block.up")
    assert (nodes.activation, nodes.reader, nodes.writers, nodes.constants) == (hidden, down, (up,), ())
    assert (nodes.query, nodes.key, nodes.value) == (None, None, None)


def test_dropouts_and_casts_on_the_way_are_passed() -> None:
    graph = Graph()
    hidden = graph.call(ATEN.clone.default, HIDDEN, gelu(graph, graph.up()))
    dropped = graph.call(ATEN.dropout.default, HIDDEN, graph.module("drop", hidden, HIDDEN), 0.1, False)
    # A module is no operator: it is looked through where the activation is looked for, but not on the way up.
    assert graph.found(graph.down(dropped)) == []
    graph = Graph()
    hidden = graph.call(ATEN.clone.default, HIDDEN, gelu(graph, graph.up()))
    once = graph.call(ATEN.dropout.default, HIDDEN, hidden, 0.1, False)
    twice = graph.call(ATEN.dropout.default, HIDDEN, once, 0.1, False)
    ((found, nodes),) = graph.found(graph.down(twice))
    assert (found, nodes.activation) == (site("block.up"), hidden)


@pytest.mark.parametrize(
    ("target", "arguments", "baked"),
    [
        (ATEN.chunk.default, (2, -1), []),
        (ATEN.chunk.default, (2, 2), []),
        (ATEN.split.Tensor, (NEURONS, -1), [(1,)]),
        (ATEN.split_with_sizes.default, ([NEURONS, NEURONS], 2), [(1, 0), (1, 1)]),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_gate_from_one_linear(target: Any, arguments: tuple[Any, ...], baked: list[Any], swapped: bool) -> None:
    graph = Graph()
    value, gate = graph.halves(target, *arguments)[:: -1 if swapped else 1]
    hidden = mul(graph, value, gelu(graph, gate))
    ((found, nodes),) = graph.found(graph.down(hidden))
    assert found == site(("block.both", (0, NEURONS)))
    assert nodes.activation is hidden
    assert [(each.argument, each.counts_units, each.counts_width) for each in nodes.constants] == [
        (argument, True, False) for argument in baked
    ]


def test_a_gate_from_two_linears() -> None:
    graph = Graph()
    up, gate = graph.up(), graph.up("gate")
    ((found, nodes),) = graph.found(graph.down(mul(graph, up, gelu(graph, gate))))
    assert found == site("block.up", "block.gate")
    assert nodes.writers == (up, gate)


@pytest.mark.parametrize("target", [ATEN.mul.Tensor, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.div.Tensor])
def test_a_number_changes_every_neuron_alike(target: Any) -> None:
    graph = Graph()
    ((found, _),) = graph.found(graph.down(mul(graph, gelu(graph, graph.up()), 1.7, target)))
    assert found == site("block.up")


def _vector(graph: Graph) -> Any:
    up = graph.module("up", graph.x, [2, NEURONS])
    return graph.down(graph.call(ATEN.gelu.default, [2, NEURONS], up), [2, WIDTH])


def _no_activation(graph: Graph) -> Any:
    return graph.down(mul(graph, graph.up(), graph.up("gate"), ATEN.add.Tensor))


def _nothing_between(graph: Graph) -> Any:
    return graph.down(graph.up())


def _a_norm(graph: Graph) -> Any:
    return graph.down(graph.module("norm", gelu(graph, graph.up()), HIDDEN))


def _a_parameter(graph: Graph) -> Any:
    gain = graph.graph.get_attr("gain")
    gain.meta["val"] = torch.empty([NEURONS], device="meta")
    return graph.down(mul(graph, gelu(graph, graph.up()), gain))


def _a_size(graph: Graph) -> Any:
    size = graph.graph.call_function(ATEN.sym_size.int, (graph.x, 0))
    size.meta["val"] = 2
    return graph.down(mul(graph, gelu(graph, graph.up()), size))


def _another_operator(graph: Graph) -> Any:
    return graph.down(graph.call(ATEN.cumsum.default, HIDDEN, gelu(graph, graph.up()), 2))


def _another_width(graph: Graph) -> Any:
    wide = graph.call(ATEN.gelu.default, [2, 5, 1], graph.module("narrow", graph.x, [2, 5, 1]))
    return graph.down(mul(graph, wide, gelu(graph, graph.up())))


def _the_input_itself(graph: Graph) -> Any:
    return graph.down(gelu(graph, graph.x))


def _half_of_no_linear(graph: Graph) -> Any:
    source = graph.call(ATEN.neg.default, BOTH, graph.module("both", graph.x, BOTH))
    split = graph.graph.call_function(ATEN.chunk.default, (source, 2, -1))
    first, second = (graph.call(operator.getitem, HIDDEN, split, at) for at in range(2))
    return graph.down(mul(graph, first, gelu(graph, second)))


def _halves_of_tokens(graph: Graph) -> Any:
    value, gate = graph.halves(ATEN.chunk.default, 2, 1)
    return graph.down(mul(graph, value, gelu(graph, gate)))


@pytest.mark.parametrize(
    "make",
    [
        _vector,
        _no_activation,
        _nothing_between,
        _a_norm,
        _a_parameter,
        _a_size,
        _another_operator,
        _another_width,
        _the_input_itself,
        _half_of_no_linear,
        _halves_of_tokens,
    ],
)
def test_what_is_no_feed_forward_is_none(make: Any) -> None:
    graph = Graph()
    assert graph.found(make(graph)) == []


def _hidden_is_read(graph: Graph) -> Any:
    hidden = gelu(graph, graph.up())
    return graph.down(hidden), graph.call(ATEN.neg.default, HIDDEN, hidden)


def _up_is_read(graph: Graph) -> Any:
    up = graph.up()
    return graph.down(gelu(graph, up)), graph.call(ATEN.neg.default, HIDDEN, up)


def _half_is_read(graph: Graph) -> Any:
    value, gate = graph.halves()
    return graph.down(mul(graph, value, gelu(graph, gate))), graph.call(ATEN.neg.default, HIDDEN, gate)


def _both_are_read(graph: Graph) -> Any:
    value, gate = graph.halves()
    whole = graph.call(ATEN.neg.default, BOTH, value.args[0].args[0])
    return graph.down(mul(graph, value, gelu(graph, gate))), whole


def _one_half_goes_elsewhere(graph: Graph) -> Any:
    value, gate = graph.halves()
    return graph.down(gelu(graph, gate)), graph.call(ATEN.neg.default, HIDDEN, value)


def _unequal_parts(graph: Graph) -> Any:
    value, gate = graph.halves(ATEN.split_with_sizes.default, [NEURONS, NEURONS + 1], -1)
    return graph.down(mul(graph, value, gelu(graph, gate)))


def _called_twice(graph: Graph) -> Any:
    return graph.down(gelu(graph, graph.up())), graph.module("up", graph.x, HIDDEN)


def _tied(graph: Graph) -> Any:
    graph.owner.block.gate.weight = graph.owner.block.up.weight
    return graph.down(gelu(graph, graph.up())), graph.up("gate")


def _a_third_part(graph: Graph) -> Any:
    graph.owner.block.both = nn.Linear(4, 18)
    value, gate = graph.halves()
    return graph.down(mul(graph, value, gelu(graph, gate)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_hidden_is_read, "hidden activation"),
        (_up_is_read, "hidden activation"),
        (_half_is_read, "hidden activation"),
        (_both_are_read, "'block.both' is used elsewhere"),
        (_one_half_goes_elsewhere, "goes elsewhere"),
        (_unequal_parts, "unequal parts"),
        (_called_twice, "more than once"),
        (_tied, "shares its weight"),
        (_a_third_part, "more channels"),
    ],
)
def test_what_cannot_be_cut_comes_with_the_reason(make: Any, reason: str) -> None:
    graph = Graph()
    (found,) = graph.found(make(graph))
    assert isinstance(found, Unsupported)
    assert (found.name, found.kind) == ("block", "feed_forward")
    assert reason in found.reason


def test_asking_for_a_size_of_the_hidden_activation_is_no_use() -> None:
    graph = Graph()
    up = graph.up()
    size = graph.graph.call_function(ATEN.sym_size.int, (up, 1))
    ((found, _),) = graph.found((graph.down(gelu(graph, up)), size))
    assert found == site("block.up")
