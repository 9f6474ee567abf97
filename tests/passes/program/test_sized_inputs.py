"""Inputs at chosen sizes: batch, height, width, text length and seed, with each kind of values."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from passes.errors import UsageError
from passes.program.inputs import symbol_roles
from passes.program.sized_inputs import first_accepted, like_example, like_kind, repeated, shape_at, sized_inputs
from tests.passes.program.test_fresh_inputs_by_hand import program_of

PICTURE, TEXT, TIMES = torch.randn(2, 4, 8, 12), torch.randn(2, 5, 6), torch.tensor([3.0, 900.0])


def _sizes(program, **wanted):
    return {symbol: wanted.get(role, traced) for symbol, (role, traced) in symbol_roles(program).items()}


def test_each_size_is_the_one_that_is_asked_for() -> None:
    program = program_of(PICTURE, TEXT, TIMES, timestep="x2", duck=True)
    # In a hand-made graph the picture's channels are free too, and come before the text's length.
    sizes = _sizes(program, batch=3, height=16, width=24, tokens_2=7)
    (picture, text, times), kwargs = sized_inputs(program, sizes, like_example(0))
    assert (picture.shape[0], *picture.shape[2:]) == (3, 16, 24)
    assert text.shape[:2] == (3, 7)
    assert times.shape == (3,)
    assert kwargs == {}


@pytest.mark.parametrize("kind", [like_example, like_kind])
def test_a_seed_draws_the_same_again_and_another_other_values(kind) -> None:
    program = program_of(PICTURE, TEXT, TIMES, timestep="x2", duck=True)
    one, again, other = (sized_inputs(program, _sizes(program, batch=3), kind(seed))[0] for seed in (0, 0, 1))
    assert all(torch.equal(left, right) for left, right in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert all(made.dtype == given.dtype for made, given in zip(one, program.args, strict=True))
    assert bool(((one[2] >= 0) & (one[2] < 1000) & (one[2] == one[2].round())).all())


def test_rows_and_columns_are_repeated() -> None:
    example = torch.arange(6.0).reshape(2, 3)
    assert repeated(example, (3, 4)).tolist() == [[0, 1, 2, 0], [3, 4, 5, 3], [0, 1, 2, 0]]
    assert repeated(example, (1, 2)).tolist() == [[0, 1]]
    assert repeated(example.t(), (3, 2)).is_contiguous()


def test_a_mask_that_hides_nothing_is_mixed_for_a_comparison_and_else_kept() -> None:
    for mask in (torch.ones(2, 50), torch.ones(2, 50, dtype=torch.bool)):
        assert bool((like_example(0)(mask, (2, 50), False) == 1).all())
        assert 0 < int(like_kind(0)(mask, (2, 50), False).sum()) < 100
    assert bool((like_kind(0)(torch.ones(2, 50), (40, 50), False)[:, 0] == 1).all())
    assert set(like_kind(0)(torch.tensor([0, 3]), (200,), False).tolist()) == {0, 1, 2, 3}
    assert set(like_example(0)(torch.tensor([0, 3]), (200,), False).tolist()) == {0, 3}


def test_the_first_sizes_that_the_guards_accept_are_taken() -> None:
    program = program_of(torch.randn(5, 6), guards=("L['x0'].size()[1] % 4 == 0",))
    (rows, columns) = symbol_roles(program)
    proposals = [{rows: 3, columns: size} for size in (6, 9, 8, 12)]
    (found,), _ = first_accepted(program, proposals, partial(like_example, 0))
    assert found.shape == (3, 8)
    # What was refused has drawn nothing from the generator.
    (direct,), _ = sized_inputs(program, proposals[2], like_example(0))
    assert torch.equal(found, direct)
    with pytest.raises(UsageError, match="multiple of 4"):
        first_accepted(program, proposals[:2], partial(like_example, 0))
    with pytest.raises(UsageError, match="no sizes"):
        first_accepted(program, [], partial(like_example, 0))


def test_shapes_are_evaluated_and_fixed_sizes_stay() -> None:
    program = program_of(torch.randn(5, 6))
    value = next(iter(program.graph.nodes)).meta["val"]
    (rows, _) = symbol_roles(program)
    assert shape_at(value[:, :1], {rows: 9}) == (9, 1)
