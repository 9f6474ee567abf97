"""Symbolic sizes as numbers that fit together."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from passes.program.sizes import SMALL, concrete_shape, concrete_size


def _symbolic(*shape: int) -> FakeTensor:
    context = StatelessSymbolicContext([DimDynamic.DYNAMIC] * len(shape))
    fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(shape), symbolic_context=context)
    assert all(isinstance(size, torch.SymInt) for size in fake.shape)
    return fake


def test_symbols_shrink_and_expressions_follow() -> None:
    tensor = _symbolic(2, 64)
    batch, tokens = tensor.shape
    assert concrete_shape(tensor) == (2, SMALL)
    assert concrete_size(batch * (tokens // 4)) == 2 * SMALL // 4
    assert concrete_size(batch * (tokens // 4), limit=None) == 2 * 64 // 4
    assert concrete_size(tokens // 4 * 4 == tokens) is True


@pytest.mark.parametrize("value", [7, 2.5, None, "same"])
def test_plain_values_stay(value: object) -> None:
    assert concrete_size(value) == value
