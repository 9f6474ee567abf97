"""What operators and sites cost, with every size of its own: no two of them are equal, so none stands for another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from passes.plan.costs import entry_cost, program_macs, program_params, site_macs, tensor_bytes, unit_macs, unit_params
from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes
from tests.sites import linear_site

ATEN = torch.ops.aten
BATCH, HEADS, WIDTH, QUERIES, KEYS, TEXT, OUT = 2, 3, 4, 5, 7, 11, 13
CHANNELS = HEADS * WIDTH


class Graph:
    """Nodes that say their shapes themselves."""

    def __init__(self, **modules: nn.Module) -> None:
        self.graph = fx.Graph()
        self.owner = nn.Module()
        for name, module in modules.items():
            self.owner.add_module(name, module)

    def input(self, *shape: int) -> fx.Node:
        return self._shaped(self.graph.placeholder(f"x{len(self.graph.nodes)}"), shape)

    def call(self, target: Any, shape: tuple[int, ...], *arguments: Any) -> fx.Node:
        return self._shaped(self.graph.call_function(target, arguments), shape)

    def module(self, name: str, value: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        return self._shaped(self.graph.call_module(name, (value,)), shape)

    def program(self, result: Any) -> Program:
        self.graph.output(result)
        return Program(fx.GraphModule(self.owner, self.graph), (), timestep=None)

    @staticmethod
    def _shaped(node: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        node.meta["val"] = torch.empty(shape, device="meta")
        return node


@pytest.mark.parametrize(
    ("target", "shapes", "result", "macs"),
    [
        (ATEN.matmul.default, [(2, 3, 5, 7), (2, 3, 7, 11)], (2, 3, 5, 11), 2 * 3 * 5 * 7 * 11),
        (ATEN.bmm.default, [(3, 5, 7), (3, 7, 11)], (3, 5, 11), 3 * 5 * 7 * 11),
        (ATEN.mm.default, [(5, 7), (7, 11)], (5, 11), 5 * 7 * 11),
        (ATEN.baddbmm.default, [(3, 5, 11), (3, 5, 7), (3, 7, 11)], (3, 5, 11), 3 * 5 * 7 * 11),
        (ATEN.linear.default, [(2, 5, 7), (11, 7)], (2, 5, 11), 2 * 5 * 7 * 11),
        (ATEN.conv2d.default, [(2, 6, 9, 8), (10, 3, 5, 4)], (2, 10, 7, 11), 2 * 10 * 7 * 11 * 3 * 5 * 4),
        (ATEN.conv2d.padding, [(2, 6, 9, 8), (10, 3, 5, 4)], (2, 10, 7, 11), 2 * 10 * 7 * 11 * 3 * 5 * 4),
        (
            ATEN.scaled_dot_product_attention.default,
            [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)],
            (2, 3, 5, 6),
            2 * 3 * 5 * 7 * (4 + 6),
        ),
        (ATEN.add.Tensor, [(2, 3), (2, 3)], (2, 3), 0),
        (ATEN.softmax.int, [(2, 3)], (2, 3), 0),
    ],
)
def test_an_operator_by_its_sizes(
    target: Any, shapes: list[tuple[int, ...]], result: tuple[int, ...], macs: int
) -> None:
    graph = Graph()
    node = graph.call(target, result, *(graph.input(*shape) for shape in shapes))
    assert program_macs(graph.program(node)) == macs


def test_modules_by_their_sizes_and_once_for_each_call() -> None:
    graph = Graph(linear=nn.Linear(7, 11), conv=nn.Conv2d(6, 10, (5, 4), groups=2), norm=nn.LayerNorm(11))
    linear = graph.module("linear", graph.input(2, 5, 7), (2, 5, 11))
    again = graph.module("linear", graph.input(3, 7), (3, 11))
    conv = graph.module("conv", graph.input(2, 6, 9, 8), (2, 10, 3, 2))
    program = graph.program((graph.module("norm", linear, (2, 5, 11)), again, conv))
    assert program_macs(program) == (2 * 5 + 3) * 7 * 11 + 2 * 10 * 3 * 2 * 3 * 5 * 4
    assert program_params(program) == 7 * 11 + 11 + 10 * 3 * 5 * 4 + 10 + 2 * 11


def test_a_tied_parameter_counts_once() -> None:
    first, second = nn.Linear(7, 7), nn.Linear(7, 7, bias=False)
    second.weight = first.weight
    graph = Graph(first=first, second=second)
    program = graph.program(graph.module("second", graph.module("first", graph.input(3, 7), (3, 7)), (3, 7)))
    assert program_params(program) == 7 * 7 + 7


def cross_attention() -> tuple[Program, Site, SiteNodes]:
    """Queries from tokens, keys and values from a text of another length and width, by one linear; no bias on it."""
    graph = Graph(
        q=nn.Linear(CHANNELS, CHANNELS),
        kv=nn.Linear(TEXT, 2 * CHANNELS, bias=False),
        out=nn.Linear(CHANNELS, OUT),
    )
    q = graph.module("q", graph.input(BATCH, QUERIES, CHANNELS), (BATCH, QUERIES, CHANNELS))
    kv = graph.module("kv", graph.input(BATCH, KEYS, TEXT), (BATCH, KEYS, 2 * CHANNELS))
    query = graph.call(ATEN.view.default, (BATCH, HEADS, QUERIES, WIDTH), q)
    key = graph.call(ATEN.view.default, (BATCH, HEADS, KEYS, WIDTH), kv)
    value = graph.call(ATEN.view.default, (BATCH, HEADS, KEYS, WIDTH), kv)
    attention = graph.call(ATEN.scaled_dot_product_attention.default, (BATCH, HEADS, QUERIES, WIDTH), query, key, value)
    merged = graph.call(ATEN.reshape.default, (BATCH, QUERIES, CHANNELS), attention)
    out = graph.module("out", merged, (BATCH, QUERIES, OUT))
    site = linear_site("a", "attention", HEADS, WIDTH, ("q", ("kv", (0, CHANNELS))), "out")
    return graph.program(out), site, SiteNodes(attention, query, key, value, out, (q, kv), ())


def test_a_head_of_a_cross_attention() -> None:
    program, site, nodes = cross_attention()
    assert unit_params(program, site) == WIDTH * (CHANNELS + 1) + 2 * WIDTH * TEXT + WIDTH * OUT
    assert isinstance(unit_macs(program, site, nodes), int)
    linears = BATCH * (QUERIES * CHANNELS * WIDTH + KEYS * TEXT * 2 * WIDTH + QUERIES * WIDTH * OUT)
    assert unit_macs(program, site, nodes) == linears + BATCH * QUERIES * KEYS * 2 * WIDTH
    assert site_macs(program, site, nodes) == HEADS * unit_macs(program, site, nodes) == program_macs(program)


def test_without_its_nodes_an_attention_s_products_are_not_counted() -> None:
    program, site, nodes = cross_attention()
    bare = SiteNodes(nodes.activation, None, None, None, nodes.reader, nodes.writers, ())
    products = BATCH * QUERIES * KEYS * 2 * WIDTH
    assert unit_macs(program, site, bare) == unit_macs(program, site, nodes) - products


@pytest.mark.parametrize(
    ("kept", "width", "cost"),
    [((0, 1, 2), None, 1200), ((0, 2), None, 800), ((0, 1, 2), 1, 300), ((0, 1), 3, 600), ((1,), 4, 400)],
)
def test_what_stays_costs_by_its_channels(kept: tuple[int, ...], width: int | None, cost: int) -> None:
    site = linear_site("a", "attention", HEADS, WIDTH, ("q",), "out")
    assert entry_cost(1200, site, SitePlan("attention", HEADS, kept, width)) == cost


def test_a_shared_tensor_takes_its_bytes_once() -> None:
    one, other = torch.zeros(3, 5, dtype=torch.float64), torch.zeros(7, dtype=torch.half)
    tensors: dict[str, Tensor] = {"a": one, "b": other, "c": one}
    assert tensor_bytes(tensors) == 3 * 5 * 8 + 7 * 2
    assert tensor_bytes({}) == 0
