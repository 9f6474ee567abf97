from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.capture.value_numbers import value_number


class Run(nn.Module):
    def __init__(self, run: Callable[[nn.Linear, Tensor], Tensor], linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.run = linear, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.linear, x)


def _number(run: Callable[[nn.Linear, Tensor], Tensor], linear: nn.Linear) -> str:
    names = {id(value): name for name, value in linear.named_parameters()}
    return value_number(Run(run, linear), (torch.empty(3, 4),), {}, names)


LINEAR = nn.Linear(4, 4)
PLAIN = _number(lambda linear, x: linear(x) + 1, LINEAR)


@pytest.mark.parametrize(
    "run",
    [
        lambda linear, x: linear(x) + 1,
        lambda linear, x: linear(x.contiguous().clone()) + 1,
        lambda linear, x: linear(x[:]).view(3, 4) + 1,
        lambda linear, x: (linear(x), linear(x) * 7)[0] + 1,  # dead code
        lambda linear, x: linear(x).to(torch.float32) + 1,
    ],
)
def test_the_same_function_has_the_same_number(run: Callable[[nn.Linear, Tensor], Tensor]) -> None:
    assert _number(run, LINEAR) == PLAIN


@pytest.mark.parametrize(
    "run",
    [
        lambda linear, x: linear(x) + 2,
        lambda linear, x: linear(x) - 1,
        lambda linear, x: linear(x + 1),
        lambda linear, x: linear(x),
        lambda linear, x: linear(x).T + 1,
        lambda linear, x: linear(x)[:2] + 1,
        lambda linear, x: linear(x).double() + 1,
        lambda linear, x: nn.functional.linear(x, linear.weight) + 1,
        lambda linear, x: linear(x) + torch.tensor(1.5),
    ],
)
def test_another_function_has_another_number(run: Callable[[nn.Linear, Tensor], Tensor]) -> None:
    assert _number(run, LINEAR) != PLAIN


def test_constants_count_by_value() -> None:
    first = _number(lambda linear, x: linear(x) + torch.tensor([1.0, 2.0, 3.0, 4.0]), LINEAR)
    again = _number(lambda linear, x: linear(x) + torch.tensor([1.0, 2.0, 3.0, 4.0]), LINEAR)
    other = _number(lambda linear, x: linear(x) + torch.tensor([1.0, 2.0, 3.0, 5.0]), LINEAR)
    assert first == again != other


def test_other_parameters_are_told_apart() -> None:
    linears = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    names = {id(value): name for name, value in linears.named_parameters()}
    numbers = [
        value_number(Run(lambda linear, x: linear(x), linear), (torch.empty(3, 4),), {}, names)
        for linear in (linears[0], linears[1])
    ]
    assert numbers[0] != numbers[1]


def test_doubling_by_size_and_by_factor_is_one_operator() -> None:
    class Up(nn.Module):
        def __init__(self, **how: object) -> None:
            super().__init__()
            self.how = how

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = nn.functional.interpolate(x, **self.how)
            return result

    def number(height: int, **how: object) -> str:
        return value_number(Up(**how), (torch.empty(1, 2, height, 4),), {}, {})

    twice = number(4, scale_factor=2.0)
    assert number(4, size=(8, 8)) == twice
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(Up(size=(8, 8))(x), Up(scale_factor=2.0)(x))
    # another size, another mode and a factor that gives the same size by other pixels are other operators
    assert number(4, size=(8, 7)) != number(4, size=(7, 8)) != twice
    assert number(4, scale_factor=(2.2, 2.0)) != twice
    assert number(4, size=(8, 8), mode="nearest-exact") != twice
