"""What makes an attention a site, what makes it none, and by which name it is told: graphs of a few nodes."""

from __future__ import annotations

import operator
import re
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.program.program import Program
from passes.sites.attention import find_attention
from passes.sites.site import Site, Unsupported
from tests.sites import Writer, linear_site

ATEN = torch.ops.aten
BATCH, TOKENS, TEXT, HEADS, WIDTH = 2, 6, 7, 3, 4
CHANNELS = HEADS * WIDTH


class Graph:
    """Nodes that say their shapes themselves; linears under `block`."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.shaped(self.graph.placeholder("x"), [BATCH, TOKENS, CHANNELS])
        self.text = self.shaped(self.graph.placeholder("text"), [BATCH, TEXT, CHANNELS])
        self.owner: Any = nn.Module()
        block = self.owner.block = nn.Module()
        for name in ("q", "k", "v", "out"):
            block.add_module(name, nn.Linear(CHANNELS, CHANNELS))
        block.kv, block.qkv = nn.Linear(CHANNELS, 2 * CHANNELS), nn.Linear(CHANNELS, 3 * CHANNELS)

    @staticmethod
    def shaped(node: fx.Node, shape: list[int]) -> fx.Node:
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def call(self, target: Any, shape: list[int], *arguments: Any, **options: Any) -> fx.Node:
        return self.shaped(self.graph.call_function(target, arguments, options), shape)

    def linear(self, name: str, value: fx.Node, width: int = CHANNELS) -> fx.Node:
        tokens = value.meta["val"].shape[1]
        return self.shaped(self.graph.call_module(f"block.{name}", (value,)), [BATCH, tokens, width])

    def heads(self, value: fx.Node, heads: int = HEADS, width: int = WIDTH) -> fx.Node:
        tokens = value.meta["val"].shape[1]
        split = self.call(ATEN.view.default, [BATCH, tokens, heads, width], value, [BATCH, -1, heads, width])
        return self.call(ATEN.transpose.int, [BATCH, heads, tokens, width], split, 1, 2)

    def attend(self, query: Any, key: Any, value: Any, **options: Any) -> fx.Node:
        shape = [BATCH, HEADS, TOKENS, WIDTH]
        return self.call(ATEN.scaled_dot_product_attention.default, shape, query, key, value, **options)

    def out(self, attention: fx.Node, name: str = "out") -> fx.Node:
        merged = self.call(ATEN.transpose.int, [BATCH, TOKENS, HEADS, WIDTH], attention, 1, 2)
        return self.linear(
            name, self.call(ATEN.reshape.default, [BATCH, TOKENS, CHANNELS], merged, [BATCH, -1, CHANNELS])
        )

    def parts(self, source: fx.Node, count: int) -> list[fx.Node]:
        split = self.graph.call_function(ATEN.chunk.default, (source, count, 2))
        shape = [BATCH, source.meta["val"].shape[1], CHANNELS]
        return [self.call(operator.getitem, shape, split, at) for at in range(count)]

    def found(self, result: Any) -> list[Any]:
        self.graph.output(result)
        return find_attention(Program(fx.GraphModule(self.owner, self.graph), (), timestep=None))


def site(*writers: Writer) -> Site:
    return linear_site("block", "attention", HEADS, WIDTH, writers, "block.out")


def test_queries_from_tokens_keys_and_values_from_a_text() -> None:
    graph = Graph()
    q, k, v = graph.linear("q", graph.x), graph.linear("k", graph.text), graph.linear("v", graph.text)
    query, key, value = graph.heads(q), graph.heads(k), graph.heads(v)
    attention = graph.attend(query, key, value)
    out = graph.out(attention)
    ((found, nodes),) = graph.found(out)
    assert found == site("block.q", "block.k", "block.v")
    assert (nodes.activation, nodes.query, nodes.key, nodes.value) == (attention, query, key, value)
    assert (nodes.reader, nodes.writers) == (out, (q, k, v))
    baked = [(each.argument, each.counts_units, each.counts_width) for each in nodes.constants]
    assert baked == [((1, 2), True, False), ((1, 3), False, True)] * 3 + [((1, 2), True, True)]
    assert all(constant.value(found) in (HEADS, WIDTH, CHANNELS) for constant in nodes.constants)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_one_linear_for_all_has_a_start_for_each(order: tuple[int, ...]) -> None:
    graph = Graph()
    parts = graph.parts(graph.linear("qkv", graph.x, 3 * CHANNELS), 3)
    query, key, value = (graph.heads(parts[at]) for at in order)
    ((found, nodes),) = graph.found(graph.out(graph.attend(query, key, value)))
    assert found == site(("block.qkv", (0, CHANNELS, 2 * CHANNELS)))
    assert len(nodes.writers) == 1


def test_one_linear_for_keys_and_values() -> None:
    graph = Graph()
    key, value = graph.parts(graph.linear("kv", graph.text, 2 * CHANNELS), 2)
    query = graph.heads(graph.linear("q", graph.x))
    ((found, _),) = graph.found(graph.out(graph.attend(query, graph.heads(key), graph.heads(value))))
    assert found == site("block.q", ("block.kv", (0, CHANNELS)))


def test_a_baked_number_is_noted_once() -> None:
    graph = Graph()
    q, k, v = (graph.linear(name, graph.x) for name in "qkv")
    mask = graph.shaped(graph.graph.placeholder("mask"), [BATCH, 1, 1, TOKENS])
    expanded = graph.call(ATEN.expand.default, [BATCH, HEADS, TOKENS, TOKENS], mask, [BATCH, HEADS, TOKENS, TOKENS])
    attention = graph.attend(graph.heads(q), graph.heads(k), graph.heads(v), attn_mask=expanded)
    ((_, nodes),) = graph.found(graph.out(attention))
    assert len(nodes.constants) == len(set(nodes.constants)) == 8
    assert any(constant.node is expanded for constant in nodes.constants)


def _plain(graph: Graph, **options: Any) -> Any:
    q, k, v = (graph.heads(graph.linear(name, graph.x)) for name in "qkv")
    return graph.out(graph.attend(q, k, v, **options))


def _grouped(graph: Graph) -> Any:
    return _plain(graph, enable_gqa=True)


def _number(graph: Graph) -> Any:
    q, k = (graph.heads(graph.linear(name, graph.x)) for name in "qk")
    return graph.out(graph.attend(q, k, 3.0))


def _three_axes(graph: Graph) -> Any:
    q, k, v = (graph.linear(name, graph.x) for name in "qkv")
    return graph.out(graph.attend(q, k, v))


def _fewer_key_heads(graph: Graph) -> Any:
    q, k, v = (graph.linear(name, graph.x) for name in "qkv")
    return graph.out(graph.attend(graph.heads(q), graph.heads(k, 1, CHANNELS), graph.heads(v, 1, CHANNELS)))


def _wider_values(graph: Graph) -> Any:
    graph.owner.block.v = nn.Linear(CHANNELS, 2 * CHANNELS)
    q, k = (graph.heads(graph.linear(name, graph.x)) for name in "qk")
    return graph.out(graph.attend(q, k, graph.heads(graph.linear("v", graph.x, 2 * CHANNELS), HEADS, 2 * WIDTH)))


def _same_part(graph: Graph) -> Any:
    key, value = graph.parts(graph.linear("kv", graph.text, 2 * CHANNELS), 2)
    q, both = graph.heads(graph.linear("q", graph.x)), graph.heads(key)
    return graph.out(graph.attend(q, both, both)), graph.call(ATEN.neg.default, [BATCH, TEXT, CHANNELS], value)


def _unused_part(graph: Graph) -> Any:
    query, key, _ = graph.parts(graph.linear("qkv", graph.x, 3 * CHANNELS), 3)
    return graph.out(graph.attend(graph.heads(query), graph.heads(key), graph.heads(graph.linear("v", graph.x))))


def _called_twice(graph: Graph) -> Any:
    return _plain(graph), graph.linear("q", graph.text)


def _tied(graph: Graph) -> Any:
    graph.owner.block.k.weight = graph.owner.block.q.weight
    return _plain(graph)


def _open_heads(graph: Graph) -> Any:
    result = _plain(graph)
    attention = next(node for node in graph.graph.nodes if node.target is ATEN.scaled_dot_product_attention.default)
    fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(BATCH, HEADS, TOKENS, WIDTH))
    attention.args[0].meta["val"] = fake
    return result


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_grouped, "heads share keys and values"),
        (_number, "not all tensors"),
        (_three_axes, r"not \[batch, heads, tokens, channels\]"),
        (_fewer_key_heads, "different numbers of heads"),
        (_wider_values, "differ in width"),
        (_same_part, "used outside this attention|the same channels"),
        (_unused_part, "makes more channels than this attention takes"),
        (_called_twice, "more than once"),
        (_tied, "shares its weight"),
        (_open_heads, "not fixed"),
    ],
)
def test_what_can_t_be_cut_comes_with_its_name_and_the_reason(make: Any, reason: str) -> None:
    graph = Graph()
    (found,) = graph.found(make(graph))
    assert isinstance(found, Unsupported)
    assert (found.name, found.kind) == ("block", "attention")
    assert re.search(reason, found.reason), found.reason


def test_an_attention_of_no_linears_is_told_by_its_node() -> None:
    graph = Graph()
    query = graph.shaped(graph.graph.placeholder("query"), [BATCH, HEADS, TOKENS, WIDTH])
    attention = graph.attend(query, query, query)
    (found,) = graph.found(attention)
    assert found.name == attention.name
    graph = Graph()
    query = graph.heads(graph.linear("q", graph.x))
    other = graph.shaped(graph.graph.placeholder("other"), [BATCH, HEADS, TOKENS, WIDTH])
    (found,) = graph.found(graph.attend(query, other, other))
    assert found.name == "block.q"


def _written_out(graph: Graph, *, above: Any, steps: int, below: Any, between: Any = None) -> Any:
    q, k, v = (graph.heads(graph.linear(name, graph.x)) for name in "qkv")
    square = [BATCH, HEADS, TOKENS, TOKENS]
    scores = graph.call(above, square, q, k)
    for _ in range(steps):
        scores = graph.call(ATEN.mul.Tensor, square, scores, 0.5)
    weights = graph.call(ATEN.softmax.int, square, scores, -1)
    if between is not None:
        weights = graph.call(between, square, weights, 0.0)
    return graph.call(below, [BATCH, HEADS, TOKENS, WIDTH], weights, v)


@pytest.mark.parametrize("matmul", [ATEN.matmul.default, ATEN.bmm.default])
@pytest.mark.parametrize("between", [None, ATEN.dropout.default, ATEN.to.dtype, ATEN.view.default])
@pytest.mark.parametrize("steps", [0, 6])
def test_an_attention_that_is_written_out_is_told(matmul: Any, between: Any, steps: int) -> None:
    graph = Graph()
    result = _written_out(graph, above=matmul, steps=steps, below=matmul, between=between)
    (found,) = graph.found(result)
    assert isinstance(found, Unsupported)
    assert "written out" in found.reason
    assert found.name.startswith("block.")


@pytest.mark.parametrize(
    ("above", "steps", "below", "between"),
    [
        (ATEN.add.Tensor, 0, ATEN.matmul.default, None),
        (ATEN.matmul.default, 0, ATEN.add.Tensor, None),
        (ATEN.matmul.default, 0, ATEN.matmul.default, ATEN.add.Tensor),
        (ATEN.matmul.default, 8, ATEN.matmul.default, None),
    ],
)
def test_another_softmax_is_no_attention(above: Any, steps: int, below: Any, between: Any) -> None:
    graph = Graph()
    assert graph.found(_written_out(graph, above=above, steps=steps, below=below, between=between)) == []


def test_every_attention_is_found_in_the_order_of_the_graph() -> None:
    graph = Graph()
    first = _plain(graph)
    graph.owner.other = nn.Module()
    for name in ("q", "k", "v", "out"):
        graph.owner.other.add_module(name, nn.Linear(CHANNELS, CHANNELS))

    def linear(name: str, value: fx.Node) -> fx.Node:
        return graph.shaped(graph.graph.call_module(f"other.{name}", (value,)), [BATCH, TOKENS, CHANNELS])

    q, k, v = (graph.heads(linear(name, first)) for name in "qkv")
    attention = graph.attend(q, k, v)
    merged = graph.call(ATEN.transpose.int, [BATCH, TOKENS, HEADS, WIDTH], attention, 1, 2)
    result = linear("out", graph.call(ATEN.reshape.default, [BATCH, TOKENS, CHANNELS], merged, [BATCH, -1, CHANNELS]))
    assert [found.name for found, _ in graph.found(result)] == ["block", "other"]
