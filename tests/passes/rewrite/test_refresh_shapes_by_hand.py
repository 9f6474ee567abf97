"""New numbers in old shapes, on graphs of a node or two whose sizes are written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.errors import CouplingError
from passes.rewrite.refresh_shapes import refresh_shapes

ATEN = torch.ops.aten


class Graph:
    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.owner: Any = nn.Module()
        self.mode = FakeTensorMode(shape_env=ShapeEnv())

    def input(self, *shape: int, symbols: bool = False) -> fx.Node:
        node = self.graph.placeholder(f"x{len(self.graph.nodes)}")
        node.meta["val"] = self.mode.from_tensor(torch.zeros(shape), static_shapes=not symbols)
        return node

    def call(self, target: Any, old: Any, *arguments: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments)
        node.meta["val"] = old
        return node

    def fake(self, *shape: Any) -> FakeTensor:
        with self.mode:
            return torch.empty(shape)  # type: ignore[return-value]

    def refresh(self, *nodes: fx.Node) -> None:
        self.graph.output(nodes[-1])
        refresh_shapes(fx.GraphModule(self.owner, self.graph), nodes)


def test_what_did_not_change_is_the_very_value_it_was() -> None:
    graph = Graph()
    x = graph.input(2, 5, 4)
    old = graph.fake(2, 5, 4)
    node = graph.call(ATEN.gelu.default, old, x)
    graph.refresh(node)
    assert node.meta["val"] is old


def test_symbols_stay_and_numbers_are_the_new_ones() -> None:
    graph = Graph()
    graph.owner.linear = nn.Linear(4, 3)
    x = graph.input(2, 40, 4, symbols=True)
    batch, tokens, _ = x.meta["val"].shape
    # As it was with six rows.
    node = graph.graph.call_module("linear", (x,))
    node.meta["val"] = graph.fake(batch, tokens, 6)
    graph.refresh(node)
    value = node.meta["val"]
    assert isinstance(value, FakeTensor)
    assert value.fake_mode is graph.mode
    assert [str(size) for size in value.shape] == [str(batch), str(tokens), "3"]
    assert value.dtype == torch.float32
    assert graph.owner.linear.weight.device.type == "cpu"


def test_every_part_of_a_list_is_brought_up_to_date() -> None:
    graph = Graph()
    x = graph.input(2, 5, 6)
    split = graph.call(ATEN.chunk.default, [graph.fake(2, 5, 4), graph.fake(2, 5, 4)], x, 2, 2)
    graph.refresh(split)
    assert [tuple(part.shape) for part in split.meta["val"]] == [(2, 5, 3), (2, 5, 3)]


def test_a_chain_sees_the_new_shapes_before_it() -> None:
    graph = Graph()
    graph.owner.linear = nn.Linear(4, 6)
    x = graph.input(2, 5, 4)
    linear = graph.graph.call_module("linear", (x,))
    linear.meta["val"] = graph.fake(2, 5, 8)
    gelu = graph.call(ATEN.gelu.default, graph.fake(2, 5, 8), linear)
    graph.refresh(linear, gelu)
    assert (tuple(linear.meta["val"].shape), tuple(gelu.meta["val"].shape)) == ((2, 5, 6), (2, 5, 6))


@pytest.mark.parametrize(("axes", "strides"), [((0, 2, 1, 3), (60, 4, 12, 1)), ((2, 0, 1, 3), (4, 60, 12, 1))])
def test_the_layout_is_the_operator_s(axes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    graph = Graph()
    x = graph.input(2, 5, 3, 4)
    old = graph.fake(2, 5, 8, 4).permute(axes)
    node = graph.call(ATEN.permute.default, old, x, list(axes))
    graph.refresh(node)
    assert tuple(node.meta["val"].shape) == tuple([2, 5, 3, 4][axis] for axis in axes)
    # [2, 5, 3, 4] lies in memory as (60, 12, 4, 1).
    assert node.meta["val"].stride() == strides


def test_values_without_a_mode_are_meta_tensors() -> None:
    graph = Graph()
    x = graph.input(2, 5, 3)
    node = graph.call(ATEN.gelu.default, torch.empty(2, 5, 4, dtype=torch.float32), x)
    graph.refresh(node)
    assert (tuple(node.meta["val"].shape), node.meta["val"].device.type) == ((2, 5, 3), "meta")


def test_sizes_that_only_fit_as_captured_are_tried_so() -> None:
    graph = Graph()
    x = graph.input(2, 40, 3, symbols=True)
    # 40 tokens are baked in: with less, this can't be viewed.
    node = graph.call(ATEN.view.default, graph.fake(2, 8, 5, 4), x, [2, 8, 5, 3])
    graph.refresh(node)
    assert tuple(node.meta["val"].shape) == (2, 8, 5, 3)


def test_nodes_that_do_not_fit_are_refused() -> None:
    graph = Graph()
    x = graph.input(2, 5, 3)
    node = graph.call(ATEN.view.default, graph.fake(2, 5, 4), x, [2, 5, 4])
    with pytest.raises(CouplingError, match=r"the nodes before aten\.view\.default|don't fit together"):
        graph.refresh(node)


def test_another_number_of_axes_is_refused() -> None:
    graph = Graph()
    x = graph.input(2, 5, 3)
    node = graph.call(ATEN.view.default, graph.fake(2, 5, 3), x, [2, 15])
    with pytest.raises(CouplingError, match=r"has 2 dimensions after the removal, 3 before"):
        graph.refresh(node)


def test_a_dynamic_size_that_a_module_changed_is_refused() -> None:
    graph = Graph()
    graph.owner.shorter = nn.AvgPool1d(2)
    x = graph.input(2, 8, 8, symbols=True)
    node = graph.graph.call_module("shorter", (x,))
    node.meta["val"] = graph.fake(*x.meta["val"].shape)
    with pytest.raises(CouplingError, match="changed a dynamic size"):
        graph.refresh(node)


def test_a_dynamic_size_is_asked_of_the_symbols() -> None:
    graph = Graph()
    x = graph.input(5, 7, 2, symbols=True)
    batch = x.meta["val"].shape[0]
    node = graph.call(ATEN.repeat_interleave.self_int, graph.fake(batch * 4, *x.meta["val"].shape[1:]), x, 3, 0)
    graph.refresh(node)
    assert str(node.meta["val"].shape[0]) == f"3*{batch}"
    assert [str(size) for size in node.meta["val"].shape[1:]] == [str(size) for size in x.meta["val"].shape[1:]]


def test_what_is_no_tensor_stays() -> None:
    graph = Graph()
    x = graph.input(2, 5, 3)
    node = graph.call(ATEN.sym_size.int, 4, x, 2)
    graph.refresh(node)
    assert node.meta["val"] == 4


def test_nothing_is_computed_on_the_module_s_weights() -> None:
    graph = Graph()
    graph.owner.norm = nn.BatchNorm1d(5).train()
    x = graph.input(3, 5)
    node = graph.graph.call_module("norm", (x,))
    node.meta["val"] = graph.fake(3, 5)
    before: Tensor = graph.owner.norm.running_mean.clone()
    graph.refresh(node)
    assert torch.equal(graph.owner.norm.running_mean, before)
