"""Ratios within rounds, shares of the whole and what corrects them, on a bench whose times are written down."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from slimdiff_fx.latency.measure import gain, shares, site_ratios
from slimdiff_fx.latency.sizes import _spread
from slimdiff_fx.slimming.measured_sweep import _spread as spread_points
from slimdiff_fx.timing.interleave import Timing
from tests.sites import linear_site

SITE = linear_site("s", "attention", 4, 6, (), "out")
OTHER = linear_site("f", "feed_forward", 9, 1, (), "down")


class Bench:
    """Gives each contestant the times that stand beside its name. The second round is slow for everyone."""

    def __init__(self, seconds: Mapping[Any, tuple[float, ...]]) -> None:
        self.seconds = seconds
        self.timed: list[tuple[str, list[Any]]] = []

    def ready(self, contestant: Any) -> Any:
        return contestant

    def sites(self, forwards: Mapping[str, Any]) -> dict[str, Timing]:
        self.timed.append(("sites", list(forwards.values())))
        return {name: Timing(self.seconds[forward]) for name, forward in forwards.items()}

    def whole(self, forwards: Mapping[str, Any]) -> dict[str, Timing]:
        self.timed.append(("whole", list(forwards.values())))
        return {name: Timing(self.seconds[forward]) for name, forward in forwards.items()}


TARGET: Any = SimpleNamespace(
    site=lambda site, units, width: (site.name, units, width), whole=lambda name, plan=None: (name, plan)
)


def test_sizes_of_a_site_against_the_dense_one() -> None:
    bench: Any = Bench(
        {
            ("s", 4, None): (1.0, 10.0, 2.0),
            ("s", 4, 3): (0.5, 6.0, 1.2),  # ratios 0.5, 0.6, 0.6
            ("s", 2, 6): (0.9, 7.0, 1.6),  # 0.9, 0.7, 0.8
        }
    )
    found = list(site_ratios(TARGET, SITE, [(4, 3), (2, 6)], bench))
    assert found == [(12, pytest.approx(0.6)), (12, pytest.approx(0.8))]
    assert all(len(forwards) == 2 for _, forwards in bench.timed)


def test_dense_sites_as_shares_of_the_denoiser() -> None:
    bench: Any = Bench({"all": (4.0, 20.0, 5.0), ("s", 4, None): (1.0, 6.0, 1.0), ("f", 9, None): (2.0, 8.0, 2.0)})
    dense: Any = "all"
    seconds, parts = shares(TARGET, dense, {"x": SITE, "y": OTHER}, bench)
    assert seconds == 5.0
    assert parts == {"x": pytest.approx(0.25), "y": pytest.approx(0.4)}


@pytest.mark.parametrize(
    ("half", "expected", "most", "found"),
    [
        ((0.7, 7.0, 1.6), 0.5, 9.0, 0.3 / 0.5),  # ratios 0.7, 0.7, 0.8: saves 0.3
        ((0.7, 7.0, 1.6), 0.1, 2.5, 2.5),
        ((1.4, 12.0, 2.2), 0.5, 9.0, 0.0),  # slower than before
        ((0.7, 7.0, 1.6), 0.0, 9.0, 1.0),
        ((0.7, 7.0, 1.6), -0.2, 9.0, 1.0),
    ],
)
def test_what_half_a_denoiser_saves(half: tuple[float, ...], expected: float, most: float, found: float) -> None:
    dense, plan = object(), object()
    bench: Any = Bench({dense: (1.0, 10.0, 2.0), ("half", plan): half})
    assert gain(TARGET, dense, plan, expected, most, bench) == pytest.approx(found)  # type: ignore[arg-type]
    assert [what for what, _ in bench.timed] == (["whole"] if expected > 0 else [])


def test_sizes_are_spread_evenly_with_both_ends() -> None:
    sizes = [(1, width) for width in range(20, 0, -1)]
    assert [width for _, width in _spread(sizes, 5)] == [20, 15, 10, 6, 1]
    assert _spread(sizes[:3], 5) == sizes[:3]


def test_points_nearest_to_even_shares_are_measured() -> None:
    points = [
        {"at": at, "params": params} for at, params in ((0.0, 1000), (0.1, 950), (0.3, 800), (0.5, 610), (0.9, 560))
    ]
    # 500 of 1,000 can go, and 50, 200, 390 and 440 are gone. 45% and 90% of what can are 225 and 450; 30% are 150.
    assert [each["at"] for each in spread_points(points, 500, 2)] == [0.3, 0.9]
    assert [each["at"] for each in spread_points(points, 500, 3)] == [0.3, 0.5, 0.9]
    assert [each["at"] for each in spread_points(points, 500, 9)] == [0.1, 0.3, 0.5, 0.9]
