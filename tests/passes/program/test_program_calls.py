"""A program called by position and by name, and what its copy keeps of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from passes.errors import UsageError
from passes.program.program import Program
from passes.prove.verify import verify

ATEN = torch.ops.aten


def program() -> Program:
    """Give x · factor, where the factor comes by name; what comes out stands bare in the output."""
    graph = fx.Graph()
    x, factor = graph.placeholder("x"), graph.placeholder("factor")
    x.meta["val"], factor.meta["val"] = torch.empty(2, 3, device="meta"), torch.empty((), device="meta")
    product = graph.call_function(ATEN.mul.Tensor, (x, factor))
    product.meta["val"] = torch.empty(2, 3, device="meta")
    graph.output(product)
    return Program(
        fx.GraphModule(nn.Module(), graph),
        (torch.ones(2, 3),),
        {"factor": torch.tensor(3.0)},
        dynamic_shapes=({0: None},),
        timestep="factor",
        guards=("L['x'].size()[1] != 7",),
    )


def test_inputs_by_position_and_by_name_reach_the_graph() -> None:
    x: Tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(program()(x, factor=torch.tensor(2.0)), 2 * x)
    assert torch.equal(program()(x, torch.tensor(2.0)), 2 * x)


def test_sizes_that_the_graph_is_not_for_are_refused_before_it_runs() -> None:
    made = program()
    with pytest.raises(UsageError):
        made(torch.ones(2, 7), factor=torch.tensor(2.0))
    with pytest.raises(UsageError, match="takes 2 inputs"):
        made(torch.ones(2, 3))


def test_a_copy_keeps_everything_but_the_graph_itself() -> None:
    made = program()
    copy = made.copy()
    assert copy.graph_module is not made.graph_module
    assert copy.graph is copy.graph_module.graph
    for name in ("args", "kwargs", "dynamic_shapes", "timestep", "guards"):
        assert getattr(copy, name) is getattr(made, name)


def test_an_output_needs_no_value_of_its_own() -> None:
    verify(program())


def test_a_program_has_its_timestep_under_its_usual_name_unless_told() -> None:
    made = program()
    plain = Program(made.graph_module, made.args)
    assert (plain.timestep, dict(plain.kwargs), plain.dynamic_shapes, plain.guards) == ("timestep", {}, None, ())
