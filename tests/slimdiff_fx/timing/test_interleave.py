"""Medians, spreads and ratios by hand; who runs when, on a clock that is ours."""

from __future__ import annotations

import gc
import math

import pytest

from slimdiff_fx.timing.interleave import Timing, both_times, interleave, paired_ratio


def test_figures_by_hand() -> None:
    timing = Timing((0.5, 0.1, 0.9, 0.2, 0.3))
    assert timing.median == 0.3
    assert timing.spread == pytest.approx((0.5 - 0.2) / 2)
    assert timing.to_dict() == {"median_ms": 300.0, "spread_ms": 150.0, "min_ms": 100.0, "runs": 5}
    assert Timing((0.1, 0.4)).median == 0.25
    assert Timing((0.1,)).spread == 0


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was slow for both. Medians' ratio is 3 / 2, the means' 9 / 7; the rounds' own are 2, 0.5 and 1.5.
    assert paired_ratio(Timing((2.0, 4.0, 3.0)), Timing((1.0, 8.0, 2.0))) == 1.5
    assert paired_ratio(Timing((1.0, 8.0, 2.0)), Timing((2.0, 4.0, 3.0))) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio(Timing((1.0, 2.0)), Timing((1.0,)))


def test_the_second_of_two_times_agrees_with_their_ratio() -> None:
    assert both_times(20.26, 0.495) == ("20.3", "10.0")
    # Slim is faster in two of three turns, and yet the higher median.
    slim, dense = Timing((2.0, 3.0, 9.0)), Timing((2.5, 4.0, 1.0))
    assert slim.median > dense.median
    first, second = both_times(dense.median * 1e3, paired_ratio(slim, dense))
    assert float(second) < float(first)


def test_a_clock_that_saw_nothing_of_a_run_divides_by_nothing() -> None:
    assert paired_ratio(Timing((0.0, 0.0)), Timing((0.0, 0.0))) == 1
    assert paired_ratio(Timing((0.0, 2.0, 2.0)), Timing((0.0, 1.0, 0.0))) == 2
    assert paired_ratio(Timing((1.0,)), Timing((0.0,))) == math.inf


class Clock:
    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def contestant(self, name: str, seconds: list[float]):  # type: ignore[no-untyped-def]
        left = iter(seconds)

        def run() -> None:
            assert self.now == 0 or not gc.isenabled()
            self.order += name
            self.now += next(left)

        return run


def test_everybody_runs_in_turn_and_warming_up_does_not_count() -> None:
    clock = Clock()
    contestants = {
        "a": clock.contestant("a", [0.0, 0.0, 1.0, 2.0, 3.0]),
        "b": clock.contestant("b", [0.0, 0.0, 10.0, 20.0, 30.0]),
    }
    assert gc.isenabled()
    found = interleave(contestants, repeats=3, warmup=2, clock=clock)
    assert gc.isenabled()
    assert clock.order == "abab" + "ab" + "ba" + "ab"
    assert found == {"a": Timing((1.0, 2.0, 3.0)), "b": Timing((10.0, 20.0, 30.0))}


@pytest.mark.parametrize(("least", "most", "rounds"), [(0.0, 99.0, 2), (3.5, 99.0, 4), (3.5, 25.0, 3), (99.0, 5.0, 2)])
def test_rounds_go_on_until_the_quickest_ran_long_enough_or_the_slowest_too_long(
    least: float, most: float, rounds: int
) -> None:
    clock = Clock()
    contestants = {name: clock.contestant(name, [each] * 50) for name, each in (("a", 10.0), ("b", 1.0))}
    found = interleave(contestants, repeats=2, warmup=0, min_seconds=least, max_seconds=most, clock=clock)
    assert {name: len(each.seconds) for name, each in found.items()} == {"a": rounds, "b": rounds}


def test_a_failure_leaves_the_collector_on() -> None:
    def fails() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        interleave({"a": fails}, repeats=1, warmup=0)
    assert gc.isenabled()
