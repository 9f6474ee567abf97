"""What counts as the same function and what doesn't, operator by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passes.capture.value_numbers import value_number

Run = Callable[..., Any]


class Module(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.register_buffer("table", torch.ones(4))
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def number(run: Run, *args: Any, **kwargs: Any) -> str:
    return value_number(Module(run), args or (torch.empty(3, 4),), kwargs, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda m, x: x.reshape(12), lambda m, x: x.view(12)),
        (lambda m, x: x.reshape(2, 6), lambda m, x: x.view(2, -1)),
        (lambda m, x: x.expand(3, 4) + 1, lambda m, x: x + 1),
        (lambda m, x: x[:, 0:4] + 1, lambda m, x: x + 1),
        (lambda m, x: x.detach().clone() @ m.weight, lambda m, x: x @ m.weight),
        (lambda m, x: torch.zeros(4, device="cpu") + x, lambda m, x: torch.zeros(4) + x),
        (lambda m, x: x.to(torch.float32, copy=True) + 1, lambda m, x: x + 1),
        (lambda m, x: x.T.contiguous(), lambda m, x: x.T),
        (lambda m, x: torch.chunk(x, 2, 1)[1] * 1.0, lambda m, x: x.chunk(2, dim=1)[1] * 1.0),
    ],
)
def test_two_ways_to_say_the_same(one: Run, other: Run) -> None:
    assert number(one) == number(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda m, x: x.view(12), lambda m, x: x.T.reshape(12)),
        (lambda m, x: x.view(2, 6), lambda m, x: x.view(6, 2)),
        (lambda m, x: x[:, 1:], lambda m, x: x[:, :3]),
        (lambda m, x: x[:1].expand(3, 4), lambda m, x: x),
        (lambda m, x: x[:1].expand(3, 4), lambda m, x: x[1:2].expand(3, 4)),
        (lambda m, x: x.chunk(2, 1)[0], lambda m, x: x.chunk(2, 1)[1]),
        (lambda m, x: x.max(1)[0], lambda m, x: x.min(1)[0]),
        (lambda m, x: x.to(torch.float64), lambda m, x: x),
        (lambda m, x: x + m.table, lambda m, x: x * m.table),
        (lambda m, x: x @ m.weight, lambda m, x: m.weight @ x.T),
        (lambda m, x: x - m.table, lambda m, x: m.table - x),
        (lambda m, x: x.sum(0), lambda m, x: x.sum(0, keepdim=True)),
        (lambda m, x: x + torch.tensor([1.0]), lambda m, x: x + torch.tensor([1.0], dtype=torch.float16)),
        (lambda m, x: x + torch.ones(4), lambda m, x: x + torch.zeros(4)),
        (lambda m, x: torch.softmax(x, 0), lambda m, x: torch.softmax(x, 1)),
        (lambda m, x: (x, x + 1), lambda m, x: (x + 1, x)),
        (lambda m, x: (x, x + 1), lambda m, x: (x,)),
    ],
)
def test_two_functions(one: Run, other: Run) -> None:
    assert number(one) != number(other)


def test_constants_of_half_types_are_told_apart_by_value() -> None:
    def adds(value: float) -> Run:
        constant = torch.tensor([value], dtype=torch.bfloat16)
        return lambda m, x: x + constant

    assert number(adds(1.0)) == number(adds(1.0))
    assert number(adds(1.0)) != number(adds(1.5))


def test_inputs_are_told_apart_by_their_place() -> None:
    pair = torch.empty(3, 4), torch.empty(3, 4)
    assert number(lambda m, x, y: x - y, *pair) != number(lambda m, x, y: y - x, *pair)
    assert number(lambda m, x, y: x, *pair) != number(lambda m, x, y: y, *pair)
    assert number(lambda m, x, y: x - y, *pair) == number(lambda m, x, y: x - y, *pair)
    nested = number(lambda m, x, y: x["a"] - y, {"a": pair[0]}, pair[1])
    assert nested == number(lambda m, x, y: x - y, *pair)


def test_shapes_and_types_of_inputs_are_in_the_number() -> None:
    def same(m: nn.Module, x: Tensor) -> Tensor:
        return x

    assert number(same, torch.empty(3, 4)) != number(same, torch.empty(4, 4))
    assert number(same, torch.empty(3, 4)) != number(same, torch.empty(3, 4, dtype=torch.float64))


def test_plain_arguments_count_by_value() -> None:
    run: Run = lambda m, x, factor=1.0: x * factor  # noqa: E731
    x = torch.empty(3, 4)
    assert number(run, x, factor=2.0) == number(run, x, factor=2.0) != number(run, x, factor=3.0)


def test_shared_names_make_other_modules_comparable() -> None:
    one, other = (Module(lambda m, x: x @ m.weight) for _ in range(2))
    x = (torch.empty(3, 4),)
    assert value_number(one, x, {}, {}) == value_number(other, x, {}, {})
    names = {id(one.weight): "a", id(other.weight): "b"}
    assert value_number(one, x, {}, names) != value_number(other, x, {}, names)
    renamed = Module(lambda m, x: x @ m.renamed)
    renamed.renamed = one.weight
    assert value_number(renamed, x, {}, names) == value_number(one, x, {}, names)


def test_nothing_is_computed_and_nothing_changed() -> None:
    module = Module(lambda m, x: (x @ m.weight).add_(m.table).mul_(0))
    before = module.weight.clone()
    first = value_number(module, (torch.full((3, 4), float("nan")),), {}, {})
    assert first == value_number(module, (torch.zeros(3, 4),), {}, {})
    assert torch.equal(module.weight, before)
    assert bool((module.table == 1).all())


def test_writing_in_place_is_another_value_than_before() -> None:
    def written(m: nn.Module, x: Tensor) -> Tensor:
        y = x * 1.0
        y.add_(m.table)
        return y

    assert number(written) != number(lambda m, x: x * 1.0)
