"""Shapes worked out on tensors without data, for every way that a node can get its value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.program.program import Program
from passes.program.shapes import propagate_shapes

ATEN = torch.ops.aten


def _program() -> tuple[Program, dict[str, fx.Node]]:
    graph = fx.Graph()
    owner = nn.Module()
    owner.block = nn.Module()
    owner.block.gain = nn.Parameter(torch.ones(4, dtype=torch.float64))
    owner.linear = nn.Linear(4, 6, dtype=torch.float64)
    owner.norm = nn.BatchNorm1d(5)
    nodes: dict[str, fx.Node] = {}
    x = nodes["x"] = graph.placeholder("x")
    pair = nodes["pair"] = graph.placeholder("pair")
    x.meta["val"] = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(2, 5, 4, dtype=torch.float64))
    pair.meta["val"] = (torch.zeros(3), 7)
    gain = nodes["gain"] = graph.get_attr("block.gain")
    product = nodes["product"] = graph.call_function(ATEN.mul.Tensor, (x, gain))
    linear = nodes["linear"] = graph.call_module("linear", (product,))
    size = nodes["size"] = graph.call_function(ATEN.sym_size.int, (linear, 1))
    view = nodes["view"] = graph.call_method("reshape", (linear, -1, size))
    made = nodes["made"] = graph.call_function(
        ATEN.zeros.default, ([size, 3],), {"dtype": torch.int64, "device": torch.device("cpu")}
    )
    halves = nodes["halves"] = graph.call_function(ATEN.chunk.default, (linear, 2), {"dim": 2})
    graph.output((view, {"made": made, "halves": halves}))
    return Program(fx.GraphModule(owner, graph), (), timestep=None), nodes


def test_every_node_has_its_shape_and_no_data() -> None:
    program, nodes = _program()
    nodes = {str(key): next(n for n in program.graph.nodes if n.name == node.name) for key, node in nodes.items()}
    with torch.enable_grad():
        found = propagate_shapes(program)
    shapes = {key: tuple(found[node].shape) for key, node in nodes.items() if isinstance(found[node], Tensor)}
    assert shapes == {
        "x": (2, 5, 4),
        "gain": (4,),
        "product": (2, 5, 4),
        "linear": (2, 5, 6),
        "view": (12, 5),
        "made": (5, 3),
    }
    assert found[nodes["size"]] == 5
    assert [tuple(part.shape) for part in found[nodes["halves"]]] == [(2, 5, 3), (2, 5, 3)]
    given, number = found[nodes["pair"]]
    assert (tuple(given.shape), number) == ((3,), 7)
    tensors = [value for value in found.values() if isinstance(value, Tensor)]
    assert all(value.device.type == "meta" and not value.requires_grad for value in tensors)
    assert found[nodes["linear"]].dtype == torch.float64
    assert found[nodes["made"]].dtype == torch.int64
    output = next(node for node in program.graph.nodes if node.op == "output")
    assert found[output][0] is found[nodes["view"]]
    assert found[output][1]["made"] is found[nodes["made"]]


def test_metadata_and_modules_are_left_alone() -> None:
    program, _ = _program()
    before = [dict(node.meta) for node in program.graph.nodes]
    propagate_shapes(program)
    assert [dict(node.meta) for node in program.graph.nodes] == before
    assert all(value.device.type == "cpu" for value in program.graph_module.parameters())


def test_buffers_of_a_module_are_shadowed_too() -> None:
    graph = fx.Graph()
    owner = nn.Module()
    owner.norm = nn.BatchNorm1d(4).eval()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(3, 4)
    graph.output(graph.call_module("norm", (x,)))
    found = propagate_shapes(Program(fx.GraphModule(owner, graph), (), timestep=None))
    assert [tuple(value.shape) for value in found.values()] == [(3, 4)] * 3


@pytest.mark.parametrize("width", [3, 5])
def test_inputs_that_do_not_fit_are_an_operator_s_error(width: int) -> None:
    graph = fx.Graph()
    owner: Any = nn.Module()
    owner.linear = nn.Linear(4, 6)
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(2, width)
    graph.output(graph.call_module("linear", (x,)))
    with pytest.raises(RuntimeError):
        propagate_shapes(Program(fx.GraphModule(owner, graph), (), timestep=None))
