"""Small questions about nodes, each on a graph of a few nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.program.program import Program
from passes.program.sizes import concrete, is_fixed, shape_of, sizes_of
from passes.sites.walk import Ownership, common_path, is_dropout, is_size, linear_of, passes_on, readers, upwards

ATEN = torch.ops.aten


class Special(nn.Linear):
    """A linear that computes something else, for all that is known."""


def _owner() -> nn.Module:
    owner = nn.Module()
    owner.plain, owner.other, owner.special = nn.Linear(4, 4), nn.Linear(4, 4), Special(4, 4)
    owner.tied, owner.drop, owner.norm = nn.Linear(4, 4), nn.Dropout(0.5), nn.LayerNorm(4)
    owner.tied.weight = owner.other.weight
    return owner


class Graph:
    """A graph that grows by the nodes that a test wants."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.owner = _owner()

    def call(self, target: Any, *arguments: Any, **options: Any) -> fx.Node:
        return self.graph.call_function(target, arguments, options)

    def module(self, path: str, value: fx.Node | None = None) -> fx.Node:
        return self.graph.call_module(path, (value or self.x,))

    def program(self, result: fx.Node | None = None) -> Program:
        self.graph.output(result or self.x)
        return Program(fx.GraphModule(self.owner, self.graph), (torch.zeros(1, 4),), timestep=None)


def test_only_a_plain_linear_is_one() -> None:
    graph = Graph()
    plain, special, norm = graph.module("plain"), graph.module("special"), graph.module("norm")
    gelu = graph.call(ATEN.gelu.default, plain)
    program = graph.program(gelu)
    assert linear_of(program, plain) is program.module("plain")
    assert [linear_of(program, node) for node in (special, norm, gelu, graph.x)] == [None] * 4


@pytest.mark.parametrize(
    ("arguments", "nothing"),
    [
        ((), True),
        ((0.5,), True),
        ((0.5, False), True),
        ((0.0, True), True),
        ((0, True), True),
        ((0.5, True), False),
        ((1, True), False),
    ],
)
def test_a_dropout_hands_on_unless_it_drops(arguments: tuple[Any, ...], nothing: bool) -> None:
    graph = Graph()
    dropout = graph.call(ATEN.dropout.default, graph.x, *arguments)
    program = graph.program(dropout)
    assert is_dropout(program, dropout) is nothing
    assert passes_on(program, dropout) is nothing


def test_what_hands_its_input_on() -> None:
    graph = Graph()
    on = [graph.module("drop"), graph.call(ATEN.clone.default, graph.x), graph.call(ATEN.to.dtype, graph.x, torch.half)]
    off = [graph.module("plain"), graph.call(ATEN.gelu.default, graph.x), graph.call(ATEN.sym_size.int, graph.x, 0)]
    program = graph.program(on[0])
    assert [passes_on(program, node) for node in on] == [True] * 3
    assert [passes_on(program, node) for node in (*off, graph.x)] == [False] * 4
    assert [is_dropout(program, node) for node in (on[0], on[1], off[0])] == [True, False, False]


def test_who_only_asks_for_a_size_is_no_reader() -> None:
    graph = Graph()
    size = graph.call(ATEN.sym_size.int, graph.x, 0)
    gelu, relu = graph.call(ATEN.gelu.default, graph.x), graph.call(ATEN.relu.default, graph.x)
    assert readers(graph.x) == [gelu, relu]
    assert [is_size(node) for node in (size, gelu, graph.x)] == [True, False, False]


def test_upwards_follows_first_inputs_from_the_node_itself() -> None:
    graph = Graph()
    gelu = graph.call(ATEN.gelu.default, graph.x)
    product = graph.call(ATEN.mul.Tensor, gelu, graph.call(ATEN.relu.default, graph.x))
    full = graph.call(ATEN.full.default, [2], 1.0)
    assert list(upwards(product)) == [product, gelu, graph.x]
    assert list(upwards(full)) == [full]


def test_sizes_are_numbers_or_symbols_with_an_example() -> None:
    graph = Graph()
    fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(7, 4))
    graph.x.meta["val"] = fake
    assert len(shape_of(graph.x)) == 2
    assert sizes_of(graph.x) == (7, 4)
    assert all(type(size) is int for size in sizes_of(graph.x))
    assert concrete(5) == 5
    assert is_fixed(5)
    symbol = fake.shape[0]
    assert isinstance(symbol, torch.SymInt)
    assert concrete(symbol) == 7
    assert not is_fixed(symbol)
    assert is_fixed(symbol - symbol + 3)


def test_what_is_no_tensor_has_no_shape() -> None:
    graph = Graph()
    size = graph.call(ATEN.sym_size.int, graph.x, 0)
    size.meta["val"] = 3
    assert shape_of(size) == ()
    assert shape_of(graph.x) == ()


@pytest.mark.parametrize(
    ("paths", "shared"),
    [
        (["a.b.q", "a.b.k"], "a.b"),
        (["a.b.q", "a.b.out.0"], "a.b"),
        (["a.b", "a.b.out"], "a"),
        (["a.b.q"], "a.b"),
        (["a.q", "b.q"], ""),
        (["q", "k"], ""),
        (["a.bc.q", "a.bd.q"], "a"),
    ],
)
def test_the_path_that_linears_share(paths: list[str], shared: str) -> None:
    assert common_path(paths) == shared


def test_trouble_is_a_second_call_or_a_shared_weight() -> None:
    graph = Graph()
    first = graph.module("plain")
    second = graph.module("special", graph.module("plain", first))
    program = graph.program(graph.module("tied", graph.module("other", second)))
    ownership = Ownership(program)
    assert "more than once" in str(ownership.trouble("plain"))
    assert "shares its weight" in str(ownership.trouble("other"))
    assert "shares its weight" in str(ownership.trouble("tied"))
    assert ownership.trouble("special") is None


def test_a_linear_that_is_not_called_twice_and_tied_to_none_is_no_trouble() -> None:
    graph = Graph()
    program = graph.program(graph.module("plain"))
    assert Ownership(program).trouble("plain") is None
