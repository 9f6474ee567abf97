"""One limit over two sites whose sizes can be counted on a hand."""

from __future__ import annotations

import pytest

from passes.analyze.optimize import Option, allocate_within_error


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [(0.4, (0, 0)), (1.6, (1, 0)), (3.4, (1, 0)), (3.6, (2, 0)), (7.4, (2, 0)), (7.6, (2, 1)), (99.0, (2, 1))],
)
def test_a_sites_errors_take_the_place_of_one_another(limit: float, chosen: tuple[int, int]) -> None:
    # By slopes: a's first step loses 1 for 4, its second 2 for 3, b's 4 for 4. Together 0.5, 1.5, 3.5 and 7.5 are lost.
    sites = {
        "a": [Option(0, 10, 0.0), Option(1, 6, 1.0), Option(2, 3, 3.0)],
        "b": [Option(0, 8, 0.5), Option(1, 4, 4.5)],
    }
    found = allocate_within_error(sites, limit)
    assert (found["a"].index, found["b"].index) == chosen
