"""A captured graph is compared with its module at small sizes, and at the example's where that says no."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.export import Dim

from passes.capture.capture import capture
from passes.capture.check_capture import check_capture
from passes.errors import CaptureError
from passes.program.program import Program

SHAPE = (2, 64, 4)


class Watched(nn.Module):
    """Notes the shapes that it is really run on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, FakeTensor) and x.device.type != "meta":
            self.seen.append(tuple(x.shape))
        result: Tensor = self.linear(x)
        return result


class Noisy(Watched):
    """Draws random numbers by an operator: the graph has the very same operators."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand_like(x)


def captured(module: nn.Module) -> Program:
    return capture(module, (torch.randn(SHAPE),), {}, ({0: Dim("batch"), 1: Dim("tokens")},), timestep=None)


def test_nothing_is_run_at_the_examples_sizes() -> None:
    module = Watched()
    program = captured(module)
    assert module.seen
    assert all(shape[1] < SHAPE[1] for shape in module.seen)
    x = torch.randn(5, 70, 4)
    assert torch.equal(program(x), module(x))


def test_where_the_same_is_not_shown_the_examples_sizes_decide() -> None:
    module = Watched()
    program = captured(module)
    module.seen.clear()
    check_capture(module, program, lambda: False)
    assert SHAPE in module.seen
    with torch.no_grad():
        other = Watched()
        other.linear.weight.copy_(module.linear.weight)
    with pytest.raises(CaptureError, match="differs from Watched"):
        check_capture(other, program, lambda: True)
    assert SHAPE in other.seen  # a difference on the small input is looked into


def test_random_numbers_show_in_the_results() -> None:
    with pytest.raises(CaptureError, match="differs from Noisy"):
        captured(Noisy())


def test_an_output_that_is_not_finite_is_named() -> None:
    class Rooted(Watched):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).abs().neg().sqrt()

    with pytest.raises(CaptureError, match="not finite"):
        captured(Rooted())
