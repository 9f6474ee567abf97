"""Sizes and values that are tried, by hand: which symbols move together, and what must stay as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.errors import UsageError
from passes.program.fresh_inputs import fresh_inputs, small_input
from passes.program.program import Program


def program_of(*tensors: Any, duck: bool = False, **more: Any) -> Program:
    """Give a program that takes tensors of symbolic sizes, each its own unless `duck`, and hands them back."""
    graph = fx.Graph()
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=duck))
    for at, value in enumerate(tensors):
        node = graph.placeholder(f"x{at}")
        node.meta["val"] = mode.from_tensor(value) if isinstance(value, Tensor) else value
    graph.output(tuple(graph.nodes))
    return Program(fx.GraphModule({}, graph), tensors, **{"timestep": None, **more})


def shapes(inputs: Any) -> list[tuple[int, ...]]:
    args, kwargs = inputs
    assert kwargs == {}
    return [tuple(value.shape) for value in args]


def test_pictures_are_small_not_square_and_turned_at_the_second_turn() -> None:
    first, second = fresh_inputs(program_of(torch.randn(5, 4, 32, 32)))
    # Channels are free too here.
    assert (shapes(first), shapes(second)) == ([(3, 8, 16, 8)], [(1, 16, 8, 16)])
    assert shapes(small_input(program_of(torch.randn(5, 4, 32, 32)))) == shapes(first)


def test_sizes_of_one_axis_and_value_move_together() -> None:
    picture, text, more = torch.randn(5, 6, 20), torch.randn(5, 6, 20), torch.randn(7, 9, 20)
    first, second = fresh_inputs(program_of(picture, text, more))
    # The batch that comes first is the batch; another value at the same axis is something else.
    assert shapes(first) == [(3, 16, 16), (3, 16, 16), (8, 8, 16)]
    assert shapes(second) == [(1, 8, 8), (1, 8, 8), (16, 16, 8)]


def test_pictures_of_several_resolutions_keep_their_proportions() -> None:
    large, small = torch.randn(5, 2, 64, 64), torch.randn(5, 2, 32, 32)
    for inputs in fresh_inputs(program_of(large, small)):
        one, two = shapes(inputs)
        assert one[2] == 2 * two[2]
        assert one[3] == 2 * two[3]


def test_a_size_that_was_captured_is_not_tried_again() -> None:
    tried = [shapes(inputs)[0][1] for inputs in fresh_inputs(program_of(torch.randn(5, 8)))]
    # The least step is 8, and 16 at the other turn.
    assert 8 not in tried
    assert sorted(tried) == [16, 24]


@pytest.mark.parametrize("step", [8, 16, 32, 64, 128])
def test_the_least_step_that_the_guards_take_is_taken(step: int) -> None:
    (first, second) = fresh_inputs(program_of(torch.randn(5, 1024), guards=(f"L['x0'].size()[1] % {step} == 0",)))
    # The second turn tries the double of each step: 16 comes with 8.
    assert (shapes(first), shapes(second)) == ([(3, step)], [(1, max(step, 16))])


def test_fixed_sizes_stay() -> None:
    program = program_of(torch.randn(5, 6))
    node = next(iter(program.graph.nodes))
    node.meta["val"] = FakeTensorMode().from_tensor(program.args[0])
    assert [shapes(inputs) for inputs in fresh_inputs(program)] == [[(5, 6)], [(5, 6)]]


def test_at_last_the_captured_sizes_and_then_the_captured_batch_are_tried() -> None:
    tensor = torch.randn(5, 6, 10)
    (first, _) = fresh_inputs(program_of(tensor, guards=("L['x0'].size()[1] == 6", "L['x0'].size()[2] == 10")))
    assert shapes(first) == [(3, 6, 10)]
    (first, second) = fresh_inputs(program_of(tensor, guards=("L['x0'].size()[0] == 5",)))
    assert shapes(first) == shapes(second) == [(5, 6, 10)]
    with pytest.raises(UsageError, match=r"no other size to validate at was found \(.*4"):
        fresh_inputs(program_of(tensor, guards=("L['x0'].size()[0] == 4",)))


def test_floats_keep_their_mean_and_spread() -> None:
    draw = torch.Generator().manual_seed(0)
    values = 100 + 5 * torch.randn(4, 40, 40, generator=draw)
    (args, _) = small_input(program_of(values))
    assert float(args[0].mean()) == pytest.approx(100, abs=3)
    assert float(args[0].std()) == pytest.approx(5, abs=1.5)
    assert args[0].dtype == torch.float32
    (args, _) = small_input(program_of(torch.full((4, 6), 0.25)))
    # All alike says nothing of the spread: 1 is taken.
    assert float(args[0].std()) > 0.3


def test_whole_numbers_are_drawn_from_those_that_occur() -> None:
    for values in (torch.tensor([[3, 7, 7, 900]] * 4), torch.tensor([[3.0, 7.0, 7.0, 900.0]] * 4)):
        (args, _) = small_input(program_of(values))
        assert set(args[0].unique().tolist()) == {3, 7, 900}
        assert args[0].dtype == values.dtype
        # No mask: its first column is drawn like the others.
        assert bool((args[0][..., 0] != 900).any())


def test_a_mask_hides_not_everything() -> None:
    for mask in (torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.int64)):
        mask[0, 5] = 1
        for args, _ in fresh_inputs(program_of(mask)):
            assert bool((args[0][..., 0] == 1).all())
            assert args[0].dtype == mask.dtype


def test_labels_are_one_for_each_sample_and_no_mask() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1])
    for seed in range(4):
        (args, _) = small_input(program_of(labels), seed)
        assert args[0].shape == (3,)
    drawn = torch.cat([small_input(program_of(labels), seed)[0][0] for seed in range(8)])
    assert set(drawn.tolist()) == {0, 1}


def test_a_timestep_is_any_of_a_thousand() -> None:
    drawn = []
    for seed in range(6):
        (args, _) = small_input(program_of(torch.full((5,), 3.5), timestep="x0"), seed)
        assert args[0].shape == (3,)
        assert args[0].dtype == torch.float32
        drawn += args[0].tolist()
    assert all(0 <= step < 1000 and step == int(step) for step in drawn)
    assert max(drawn) > 500


def test_what_is_no_tensor_is_handed_on_and_nothing_empty_fails() -> None:
    (args, _) = small_input(program_of(torch.randn(5, 6), 2.5, torch.zeros(0, dtype=torch.int64)))
    assert args[1] == 2.5
    assert args[2].numel() == 0


def test_the_same_seed_draws_the_same_and_each_turn_its_own() -> None:
    program = program_of(torch.randn(5, 6))
    (one, _), (two, _) = fresh_inputs(program, 3), fresh_inputs(program, 3)
    assert torch.equal(one[0][0], two[0][0])
    assert not torch.equal(one[0][0][:1, :6], fresh_inputs(program, 3)[1][0][0][:, :6])
    assert not torch.equal(one[0][0], fresh_inputs(program, 4)[0][0][0])


def test_square_pictures_are_tried_where_others_are_refused() -> None:
    program = program_of(torch.randn(5, 32, 32), guards=("L['x0'].size()[1] == L['x0'].size()[2]",))
    assert [shapes(inputs) for inputs in fresh_inputs(program)] == [[(3, 8, 8)], [(1, 8, 8)]]


def test_values_have_the_precision_of_their_type() -> None:
    (args, _) = small_input(program_of(torch.randn(5, 6, dtype=torch.float64)))
    assert args[0].dtype == torch.float64
    assert not torch.equal(args[0].float().double(), args[0])
