from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from passes.program.guards import (
    doubled,
    holds,
    input_symbols,
    least_pictures,
    pictures,
    probes,
    ranges,
    readable,
    remainders,
    resized,
    widen,
)

GUARD = "(L['sample'].size()[2] % 8) == 0"


def test_a_guard_is_evaluated_on_inputs() -> None:
    assert holds(GUARD, {"sample": torch.zeros(1, 1, 16)})
    assert not holds(GUARD, {"sample": torch.zeros(1, 1, 12)})


def test_a_guard_can_reach_nothing_but_its_inputs() -> None:
    with pytest.raises(NameError):
        holds("__import__('os')", {})


@pytest.mark.parametrize(
    ("guard", "text"),
    [
        (GUARD, "(sample.size(2) % 8) == 0"),
        ("L['added']['ids'].size()[0] >= 2", "added.ids.size(0) >= 2"),
    ],
)
def test_guards_read_well(guard: str, text: str) -> None:
    assert readable(guard) == text


def test_symbols_and_ranges() -> None:
    class Interval:
        lower, upper = 2, 63

    symbols = {"L['x'].size()[0]": "s1", "L['x'].size()[1]": "s2"}
    assert ranges(symbols, {"s1": Interval()}) == ["L['x'].size()[0] >= 2", "L['x'].size()[0] <= 63"]
    assert input_symbols({"x": torch.zeros(2, 3), "n": 4, "d": {"y": torch.zeros(1)}}) == {}


def test_probes_reach_beyond_every_bound() -> None:
    found = list(probes({"b": 2, "h": 8}, {"b": 63}))
    assert {"b": 1, "h": 8} in found
    assert any(sizes["b"] > 64 for sizes in found)
    assert {"b": 2, "h": 1} in found
    assert list(doubled({"b": 2, "h": 8})) == [{"b": 4, "h": 8}, {"b": 2, "h": 16}]


def test_remainders_are_uneven_at_every_halving() -> None:
    # the picture, and one inside the network at a quarter of it
    found = list(remainders(({"h": 8, "h4": 2}, {"w": 12, "w4": 3}), 4))
    assert found == [
        {"h": 9, "h4": 3, "w": 15, "w4": 4},
        {"h": 10, "h4": 3, "w": 14, "w4": 4},
        {"h": 11, "h4": 3, "w": 13, "w4": 4},
    ]
    assert list(remainders(({}, {}), 4)) == []


def test_least_pictures_keep_their_proportion() -> None:
    found = list(least_pictures(({"h": 8, "h4": 2}, {"w": 12}), {"h": 8, "h4": 2, "w": 12, "b": 2}))
    assert found[0] == {"h": 1, "h4": 1, "w": 1, "b": 2}
    assert found[3] == {"h": 8, "h4": 2, "w": 8, "b": 2}
    assert list(least_pictures(({}, {}), {"b": 2})) == []


def test_pictures_are_inputs_of_four_dimensions() -> None:
    class Fake(torch.Tensor):
        shape = (2, 3, "s1", 8)  # type: ignore[assignment]

        def dim(self) -> int:
            return 4

    real = {"sample": torch.zeros(2, 3, 6, 8), "text": torch.zeros(2, 5)}
    assert pictures(real, {"sample": Fake(), "text": torch.zeros(2, 5)}) == ({"s1": 6}, {})


def test_only_what_was_shown_is_dropped() -> None:
    guards = ["L['x'].size()[0] < 64", "L['x'].size()[0] >= 2", "L['x'].size()[0] % 1 == 0"]

    def inputs_at(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(sizes["b"])}

    every = widen(guards, probes({"b": 2}, {"b": 63}), lambda _: True, inputs_at, equalities=False)
    assert every == ("L['x'].size()[0] % 1 == 0",)
    none = widen(guards, probes({"b": 2}, {"b": 63}), lambda _: False, inputs_at, equalities=False)
    assert none == tuple(guards)
    below = widen(guards, probes({"b": 2}, {"b": 63}), lambda sizes: sizes["b"] < 64, inputs_at, equalities=False)
    assert below == ("L['x'].size()[0] < 64", "L['x'].size()[0] % 1 == 0")


def test_equalities_are_tried_on_demand() -> None:
    guards = ["L['x'].size()[0] == L['x'].size()[1]"]

    def inputs_at(sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(sizes["h"], sizes["w"])}

    sizes = {"h": 8, "w": 8}
    assert widen(guards, doubled(sizes), lambda _: True, inputs_at, equalities=True) == ()
    assert widen(guards, doubled(sizes), lambda _: True, inputs_at, equalities=False) == tuple(guards)


def test_probe_inputs_cost_no_memory() -> None:
    class Symbol:
        def __str__(self) -> str:
            return "b"

    class Fake:
        shape = (Symbol(), 4)

    (changed,) = resized((torch.randn(2, 4),), (Fake(),), {"b": 10**6})
    assert changed.shape == (10**6, 4)
    assert changed.untyped_storage().nbytes() == 4
