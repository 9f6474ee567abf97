"""How fast something goes now, on a clock set by hand."""

from __future__ import annotations

import pytest

from slimdiff_fx.commands.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _steps(pace: Pace, clock: Clock, count: int, seconds: float, each: int = 1) -> None:
    for _ in range(count):
        clock.now += seconds
        pace.advance(each)


def test_the_speed_is_of_the_last_half_minute(clock: Clock) -> None:
    pace = Pace(clock=clock)
    _steps(pace, clock, 100, 0.1)  # ten a second
    assert pace.speed() == pytest.approx(10)
    _steps(pace, clock, 15, 4.0)  # a neighbour came
    assert pace.speed() == pytest.approx(0.25)
    assert pace.overall() == pytest.approx(115 / 70)
    _steps(pace, clock, 600, 0.1)  # and left
    assert pace.speed() == pytest.approx(10)


def test_a_window_may_be_longer_or_shorter(clock: Clock) -> None:
    short, long = Pace(window=3.0, clock=clock), Pace(window=1000.0, clock=clock)
    for seconds in [1.0] * 10 + [0.5] * 10:
        clock.now += seconds
        short.advance(2)
        long.advance(2)
    assert short.speed() == pytest.approx(4)
    assert long.speed() == pytest.approx(40 / 15)


def test_steps_further_apart_than_the_window_have_the_last_ones_speed(clock: Clock) -> None:
    pace = Pace(clock=clock)
    _steps(pace, clock, 5, 0.1)
    _steps(pace, clock, 2, 100.0)
    assert pace.speed() == pytest.approx(1 / 100)


def test_what_stalls_gets_slower_before_the_next_step(clock: Clock) -> None:
    pace = Pace(clock=clock)
    _steps(pace, clock, 10, 1.0)
    clock.now += 0.9  # a step may take as long as steps took
    assert pace.speed() == pytest.approx(1)
    clock.now += 9.1
    assert pace.speed() == pytest.approx(10 / 20)
    clock.now += 1000
    assert pace.speed() == pytest.approx(10 / 1020)


def test_what_was_done_before_counts_as_done_and_not_as_speed(clock: Clock) -> None:
    pace = Pace(50, clock=clock)
    assert (pace.done, pace.speed(), pace.overall()) == (50, 0.0, 0.0)
    _steps(pace, clock, 4, 2.0, each=3)
    assert (pace.done, pace.speed(), pace.overall()) == (62, 1.5, 1.5)
