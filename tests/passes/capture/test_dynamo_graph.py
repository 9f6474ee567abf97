"""Graphs as a backend gets them, written by hand: what was lifted goes back under its name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.capture.dynamo_graph import DynamoGraph, unlift
from passes.errors import PlanError

ATEN = torch.ops.aten


class Lifted:
    """A graph that grows, with its example inputs and where they came from."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.owner = nn.Module()
        self.inputs: list[Any] = []
        self.mode = FakeTensorMode(shape_env=ShapeEnv())

    def take(self, source: Any, value: Any, *, number: bool = False, example: Any = None) -> fx.Node:
        node = self.graph.placeholder(f"arg{len(self.inputs)}")
        node.meta["grapharg"] = SimpleNamespace(source=SimpleNamespace(name=source), pass_arg_as_tensor=number)
        if isinstance(value, Tensor):
            node.meta["example_value"] = value if example is None else example
        self.inputs.append(value)
        return node

    def parameter(self, *path: str, shape: tuple[int, ...] = (4, 4), root: str = "L['self']") -> fx.Node:
        steps = "".join(f"._modules['{part}']" for part in path[:-1])
        return self.take(f"{root}{steps}._parameters['{path[-1]}']", nn.Parameter(torch.randn(shape)))

    def call(self, target: Any, *arguments: Any) -> fx.Node:
        return self.graph.call_function(target, arguments)

    def unlift(self, result: Any, *sites: str) -> DynamoGraph:
        self.graph.output(result)
        return unlift(fx.GraphModule(self.owner, self.graph), self.inputs, sites or ("block",))


def test_parameters_and_buffers_are_attributes_again() -> None:
    lifted = Lifted()
    weight = lifted.parameter("block", "linear", "weight")
    x = lifted.take("L['x']", torch.randn(2, 4))
    table = lifted.take("L['self']._modules['block']._buffers['table']", torch.randn(4))
    made = lifted.unlift((lifted.call(ATEN.add.Tensor, lifted.call(ATEN.linear.default, x, weight), table),))
    assert (made.inputs, made.state, made.constants) == ((1,), (0, 2), {})
    assert made.args == (lifted.inputs[1],)
    assert made.dynamic_shapes == ({},)
    assert made.module.block.linear.weight is lifted.inputs[0]
    assert made.module.block.table is lifted.inputs[2]
    assert set(dict(made.module.named_parameters())) == {"block.linear.weight"}
    expected = lifted.inputs[1] @ lifted.inputs[0].T + lifted.inputs[2]
    torch.testing.assert_close(made.module(lifted.inputs[1]), expected)
    assert [node.op for node in made.module.graph.nodes].count("placeholder") == 1


def test_names_in_another_spelling_and_sources_that_are_functions() -> None:
    lifted = Lifted()
    x = lifted.take(lambda: "L['x']", torch.randn(2, 4))
    first = lifted.take("L['self'].__dict__['_modules']['block'].__dict__['_parameters']['weight']", torch.randn(4, 4))
    made = lifted.unlift(lifted.call(ATEN.linear.default, x, first))
    assert (made.inputs, made.state) == ((0,), (1,))
    assert made.module.block.weight is lifted.inputs[1]


def test_the_model_s_names_begin_where_its_sites_do() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    weights = [lifted.parameter("pipe", "denoiser", "blocks", str(at), "weight") for at in range(2)]
    lifted.owner.pipe = nn.Module()
    lifted.owner.pipe.denoiser = nn.Module()
    lifted.owner.pipe.denoiser.gain = nn.Parameter(torch.ones(4))
    lifted.owner.pipe.denoiser.last = nn.Linear(4, 4)
    for weight in weights:
        x = lifted.call(ATEN.linear.default, x, weight)
    x = lifted.graph.call_module("pipe.denoiser.last", (x,))
    x = lifted.call(ATEN.mul.Tensor, x, lifted.graph.get_attr("pipe.denoiser.gain"))
    made = lifted.unlift(x, "blocks.0", "blocks.1")
    assert set(dict(made.module.named_parameters())) == {
        "blocks.0.weight",
        "blocks.1.weight",
        "gain",
        "last.weight",
        "last.bias",
    }
    assert made.module.get_submodule("last") is lifted.owner.pipe.denoiser.last


def test_a_graph_without_some_of_the_sites_is_refused() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    x = lifted.call(ATEN.linear.default, x, lifted.parameter("blocks", "0", "weight"))
    with pytest.raises(PlanError, match=r"lacks 1 of the plan's 2 sites, such as 'blocks\.1'"):
        lifted.unlift(x, "blocks.0", "blocks.1")


def test_a_site_s_name_is_not_another_s_beginning() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    x = lifted.call(ATEN.linear.default, x, lifted.parameter("blocks", "10", "weight"))
    with pytest.raises(PlanError, match="lacks 1 of the plan's 1 sites"):
        lifted.unlift(x, "blocks.1")


def test_more_than_one_result_is_refused() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    weight = lifted.parameter("block", "weight")
    first = lifted.call(ATEN.linear.default, x, weight)
    with pytest.raises(PlanError, match="gives 2 tensors"):
        lifted.unlift((first, weight))


def test_a_size_is_read_off_its_tensor() -> None:
    lifted = Lifted()
    size = lifted.take("L['x'].size()[1]", 5)
    x = lifted.take("L['x']", torch.randn(2, 5, 4))
    weight = lifted.parameter("block", "weight")
    viewed = lifted.call(ATEN.view.default, lifted.call(ATEN.linear.default, x, weight), [-1, size])
    made = lifted.unlift(viewed)
    assert (made.inputs, made.state) == ((1,), (2,))
    for tokens in (5, 3):
        value = torch.randn(2, tokens, 4)
        expected = (value @ lifted.inputs[2].T).reshape(-1, tokens)
        torch.testing.assert_close(made.module(value), expected)


@pytest.mark.parametrize("source", ["L['t']", "L['y'].size()[1]", ""])
def test_a_number_from_elsewhere_is_refused_where_it_is_used(source: str) -> None:
    for used in (True, False):
        lifted = Lifted()
        number = lifted.take(source, 5)
        x = lifted.take("L['x']", torch.randn(2, 4))
        result = lifted.call(ATEN.linear.default, x, lifted.parameter("block", "weight"))
        if used:
            with pytest.raises(PlanError, match="takes the number"):
                lifted.unlift(lifted.call(ATEN.mul.Tensor, result, number))
        else:
            assert lifted.unlift(result).inputs == (1,)


def test_a_module_s_own_number_is_written_in() -> None:
    lifted = Lifted()
    eps = lifted.take("L['self']._modules['block'].eps", torch.tensor(0.25, dtype=torch.float64), number=True)
    x = lifted.take("L['x']", torch.randn(2, 4))
    number = lifted.graph.call_method("item", (eps,))
    product = lifted.call(ATEN.mul.Tensor, lifted.call(ATEN.add.Tensor, x, number), number)
    made = lifted.unlift(lifted.call(ATEN.linear.default, product, lifted.parameter("block", "weight")))
    assert (made.inputs, made.state, made.constants) == ((1,), (2,), {0: 0.25})
    x = lifted.inputs[1]
    torch.testing.assert_close(made.module(x), ((x + 0.25) * 0.25) @ lifted.inputs[2].T)


def test_a_module_s_own_number_that_is_used_as_a_tensor_is_refused() -> None:
    lifted = Lifted()
    eps = lifted.take("L['self']._modules['block'].eps", torch.tensor(0.25), number=True)
    x = lifted.take("L['x']", torch.randn(2, 4))
    product = lifted.call(ATEN.mul.Tensor, x, eps)
    with pytest.raises(PlanError, match="as a tensor"):
        lifted.unlift(lifted.call(ATEN.linear.default, product, lifted.parameter("block", "weight")))


def test_a_caller_s_number_is_not_fixed() -> None:
    lifted = Lifted()
    strength = lifted.take("L['strength']", torch.tensor(0.25), number=True)
    x = lifted.take("L['x']", torch.randn(2, 4))
    product = lifted.call(ATEN.mul.Tensor, x, lifted.graph.call_method("item", (strength,)))
    with pytest.raises(PlanError, match=r"takes the number L\['strength'\]"):
        lifted.unlift(lifted.call(ATEN.linear.default, product, lifted.parameter("block", "weight")))


def test_open_sizes_are_told() -> None:
    lifted = Lifted()
    value = torch.randn(2, 4)
    fake = lifted.mode.from_tensor(value)
    x = lifted.take("L['x']", value, example=fake)
    timestep = lifted.take("L['t']", torch.tensor(3.0))
    product = lifted.call(ATEN.mul.Tensor, x, timestep)
    made = lifted.unlift(lifted.call(ATEN.linear.default, product, lifted.parameter("block", "weight")))
    assert made.dynamic_shapes == ({0: Dim.AUTO, 1: Dim.AUTO}, {})
    assert made.inputs == (0, 1)


def test_the_given_graph_is_left_as_it_is() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    lifted.graph.output((lifted.call(ATEN.linear.default, x, lifted.parameter("block", "weight")),))
    given = fx.GraphModule(lifted.owner, lifted.graph)
    before = str(given.graph)
    unlift(given, lifted.inputs, ("block",))
    assert str(given.graph) == before


def test_a_site_s_name_may_come_again_within_it() -> None:
    lifted = Lifted()
    x = lifted.take("L['x']", torch.randn(2, 4))
    made = lifted.unlift(lifted.call(ATEN.linear.default, x, lifted.parameter("pipe", "block", "block", "weight")))
    assert set(dict(made.module.named_parameters())) == {"block.block.weight"}
