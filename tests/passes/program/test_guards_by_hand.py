"""Sizes that are tried and inputs that are refused, each written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.errors import UsageError
from passes.program.guards import check_inputs, doubled, holds, input_symbols, probes, ranges, resized, widen


def test_one_and_beyond_each_bound_and_pairs_that_are_equal_or_double() -> None:
    assert list(probes({"a": 3, "b": 5}, {"a": 10})) == [
        {"a": 1, "b": 5},
        {"a": 11, "b": 5},
        {"a": 47, "b": 5},
        {"a": 3, "b": 1},
        {"a": 5, "b": 5},
        {"a": 10, "b": 5},
        {"a": 3, "b": 3},
        {"a": 3, "b": 6},
    ]
    assert list(doubled({"a": 3, "b": 5})) == [{"a": 6, "b": 5}, {"a": 3, "b": 10}]
    assert list(probes({}, {})) == []


class _Interval:
    def __init__(self, lower: int, upper: int) -> None:
        self.lower, self.upper = lower, upper


@pytest.mark.parametrize(
    ("lower", "upper", "found"),
    [
        (0, 2**31, []),
        (1, 2**40, []),
        (2, 2**31 - 1, ["p >= 2", f"p <= {2**31 - 1}"]),
        (1, 63, ["p <= 63"]),
        (2, 2**31, ["p >= 2"]),
    ],
)
def test_ranges_that_say_something(lower: int, upper: int, found: list[str]) -> None:
    assert ranges({"p": "s"}, {"s": _Interval(lower, upper)}) == found
    assert ranges({"p": "s"}, {"other": _Interval(lower, upper)}) == []


def test_symbols_of_nested_inputs() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    x, y = mode.from_tensor(torch.zeros(3, 5)), mode.from_tensor(torch.zeros(7))
    inputs = {"x": x, "more": {"deep": {"y": y}}, "n": 3, "fixed": torch.zeros(4)}
    assert input_symbols(inputs) == {
        "L['x'].size()[0]": str(x.shape[0]),
        "L['x'].size()[1]": str(x.shape[1]),
        "L['more']['deep']['y'].size()[0]": str(y.shape[0]),
    }


def test_inputs_of_other_sizes() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    values = {"x": torch.ones(3, 5, dtype=torch.float64), "n": 3}
    fakes = {"x": mode.from_tensor(values["x"]), "n": 3}
    first = str(fakes["x"].shape[0])
    changed = resized(values, fakes, {first: 9, "unknown": 4})
    assert tuple(changed["x"].shape) == (9, 5)
    assert changed["x"].dtype == torch.float64
    assert not bool(changed["x"].any())
    assert changed["n"] == 3
    assert tuple(resized(values, fakes, {})["x"].shape) == (3, 5)


def test_a_guard_is_dropped_with_all_others_that_the_same_sizes_break() -> None:
    guards = ["L['x'].size()[0] != 1", "L['x'].size()[0] >= 2", "L['x'].size()[0] >= 2", "1 < 2"]

    def inputs_at(sizes: Any) -> dict[str, Tensor]:
        return {"x": torch.zeros(sizes["s"])}

    tried: list[dict[str, int]] = []

    def same(sizes: Any) -> bool:
        tried.append(sizes)
        return True

    assert widen(guards, iter([{"s": 5}, {"s": 1}, {"s": 1}]), same, inputs_at, equalities=False) == ()
    # Sizes that break nothing needn't be looked at.
    assert tried == [{"s": 1}]


def test_a_division_by_nought_is_no_guard_that_holds() -> None:
    def inputs_at(sizes: Any) -> dict[str, Tensor]:
        return {"x": torch.zeros(sizes["s"], 4)}

    guard = "8 // (L['x'].size()[0] - 1) > 0"
    assert holds(guard, inputs_at({"s": 2}))
    assert widen([guard], iter([{"s": 1}]), lambda sizes: True, inputs_at, equalities=False) == ()
    assert widen([guard], iter([{"s": 1}]), lambda sizes: False, inputs_at, equalities=False) == (guard,)


def _graph() -> fx.GraphModule:
    graph = fx.Graph()
    mode = FakeTensorMode(shape_env=ShapeEnv())
    x, n, more = graph.placeholder("x"), graph.placeholder("n"), graph.placeholder("more")
    value = mode.from_tensor(torch.zeros(3, 4, 5))
    with mode:
        x.meta["val"] = torch.empty(value.shape[0], 4, value.shape[2])
    n.meta["val"] = 3
    more.meta["val"] = torch.zeros(2)
    graph.output((x, n, more))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize("x", [torch.zeros(3, 4, 5), torch.zeros(1, 4, 9)])
def test_open_sizes_may_be_any(x: Tensor) -> None:
    check_inputs(_graph(), (), (x, 3), {"more": torch.zeros(2)})
    check_inputs(_graph(), (), (x, 3, torch.zeros(2)), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((torch.zeros(3, 4, 5), 3), {}, r"takes 3 inputs \(x, n, more\), not 2"),
        ((torch.zeros(3, 4, 5), 3, torch.zeros(2)), {"other": 1}, "not 4"),
        ((torch.zeros(3, 6, 5), 3, torch.zeros(2)), {}, r"'x' is \[3, 6, 5\]; .* captured for \[any, 4, any\]"),
        ((torch.zeros(3, 4), 3, torch.zeros(2)), {}, r"'x' is \[3, 4\]"),
        ((torch.zeros(3, 4, 5, 1), 3, torch.zeros(2)), {}, r"'x' is \[3, 4, 5, 1\]"),
        ((torch.zeros(3, 4, 5), 3), {"more": torch.zeros(3)}, r"'more' is \[3\]; .* captured for \[2\]"),
    ],
)
def test_other_inputs_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_inputs(_graph(), (), args, kwargs)


def test_a_broken_guard_is_told_with_the_sizes() -> None:
    guards = ("L['x'].size()[0] >= 2", "L['more'].size()[0] == L['x'].size()[2] - 3")
    good = torch.zeros(2, 4, 5)
    check_inputs(_graph(), guards, (good, 3, torch.zeros(2)), {})
    check_inputs(_graph(), guards, (good, 3), {"more": torch.zeros(2)})
    for x, words in (
        (torch.zeros(1, 4, 5), r"sizes \{'x': \[1, 4, 5\], 'more': \[2\]\}: it needs x\.size\(0\) >= 2"),
        (torch.zeros(2, 4, 6), r"it needs more\.size\(0\) == x\.size\(2\) - 3"),
    ):
        with pytest.raises(UsageError, match=words):
            check_inputs(_graph(), guards, (x, 3), {"more": torch.zeros(2)})
