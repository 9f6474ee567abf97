"""Inputs that a program wasn't captured on."""

from __future__ import annotations

import pytest
import torch

from passes.errors import UsageError
from passes.program.fresh_inputs import BATCHES, fresh_inputs
from passes.program.program import Program
from tests.passes.hand_graphs import Gated, hand_program


def _symbolic(**changes: object) -> Program:
    program = hand_program(Gated(), tokens=6)
    return Program(program.graph_module, program.args, **changes)  # type: ignore[arg-type]


def test_values_and_sizes_differ_and_are_repeatable() -> None:
    program = _symbolic()
    first, again = fresh_inputs(program), fresh_inputs(program)
    assert len(first) == len(BATCHES)
    for ((one,), _), ((other,), _) in zip(first, again, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == program.args[0].dtype
    assert not torch.equal(first[0][0][0], fresh_inputs(program, seed=1)[0][0][0])


def test_guards_are_kept_to() -> None:
    for (x,), _ in fresh_inputs(_symbolic(guards=("L['x'].size()[1] % 32 == 0",))):
        assert x.shape[1] % 32 == 0
    with pytest.raises(UsageError, match="no other size"):
        fresh_inputs(_symbolic(guards=("L['x'].size()[1] == 5",)))


def test_timesteps_masks_and_labels_stay_possible() -> None:
    program = _symbolic(timestep="x")
    (steps,), _ = fresh_inputs(program)[0]
    assert torch.equal(steps, steps.round())
    assert 0 <= steps.min() <= steps.max() < 1000
    mask = (torch.rand(2, 6, program.args[0].shape[2]) > 0.5).float()
    (drawn,), _ = fresh_inputs(Program(program.graph_module, (mask,), timestep=None))[0]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn[..., 0] == 1).all()
