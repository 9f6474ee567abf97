"""One budget over all sites, against every combination there is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.analyze.optimize import Option, allocate_within_cost, allocate_within_error, lower_hull
from passes.errors import BudgetError

CURVES = st.lists(st.floats(1e-6, 10), min_size=1, max_size=5)


def options(steps: list[float]) -> list[Option]:
    """Make sizes of cost 10, 9, ... whose errors rise by the steps."""
    errors = [0.0, *itertools.accumulate(steps)]
    return [Option(index, 10 - index, error) for index, error in enumerate(errors)]


@settings(max_examples=60, deadline=None)
@given(curves=st.lists(CURVES, min_size=1, max_size=3), data=st.data())
def test_convex_curves_get_the_true_optimum(curves: list[list[float]], data: st.DataObject) -> None:
    sites = {str(number): options(sorted(steps)) for number, steps in enumerate(curves)}
    least = sum(each[-1].cost for each in sites.values())
    budget = data.draw(st.integers(least, 10 * len(sites)))
    chosen = allocate_within_cost(sites, budget)
    assert sum(option.cost for option in chosen.values()) <= budget
    best = min(
        sum(option.error for option in each)
        for each in itertools.product(*sites.values())
        if sum(option.cost for option in each) <= budget
    )
    assert sum(option.error for option in chosen.values()) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(curves=st.lists(CURVES, min_size=1, max_size=3), data=st.data())
def test_any_curves_meet_the_budget_and_are_best_for_what_they_cost(
    curves: list[list[float]], data: st.DataObject
) -> None:
    sites = {str(number): options(steps) for number, steps in enumerate(curves)}
    limit = data.draw(st.floats(0, 20))
    chosen = allocate_within_error(sites, limit)
    error, cost = (sum(getattr(each, name) for each in chosen.values()) for name in ("error", "cost"))
    assert error <= limit
    for each in itertools.product(*sites.values()):
        if sum(option.cost for option in each) <= cost:
            assert sum(option.error for option in each) >= error - 1e-9


def test_the_hull_leaves_out_what_lies_above_it() -> None:
    sizes = [Option(0, 10, 0.0), Option(1, 8, 5.0), Option(2, 6, 5.5), Option(3, 4, 20.0), Option(4, 3, 20.0)]
    assert [option.index for option in lower_hull(sizes)] == [0, 2, 4]


def test_a_last_step_takes_no_more_than_it_must() -> None:
    sizes = [Option(0, 10, 0.0), Option(1, 9, 4.0), Option(2, 8, 8.0), Option(3, 2, 9.0)]
    assert allocate_within_cost({"one": sizes}, 9)["one"].index == 1


def test_what_cant_be_met_is_refused() -> None:
    with pytest.raises(BudgetError, match="the least is 8"):
        allocate_within_cost({"one": options([1.0, 1.0])}, 7)


TIED = 1e-13  # of errors about 1: as far off as sums of some thousand products are


@settings(max_examples=80, deadline=None)
@given(
    curves=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.0, 1e-14, 0.3])), min_size=1, max_size=6),
        min_size=1,
        max_size=3,
    )
)
def test_a_budget_that_everything_meets_removes_nothing(curves: list[list[tuple[int, float]]]) -> None:
    """Whatever sizes cost, more than the whole or as much, and however many of them look free."""
    sites = {}
    for number, steps in enumerate(curves):
        errors = list(itertools.accumulate(error for _, error in steps))
        smaller = [Option(at + 1, steps[at][0], error, TIED) for at, error in enumerate(errors)]
        sites[str(number)] = [Option(0, 10, 0.0, TIED), *smaller]
        assert lower_hull(sites[str(number)])[0].index == 0
    for chosen in (allocate_within_cost(sites, 10 * len(sites)), allocate_within_cost(sites, 10 * len(sites) + 5)):
        assert all(option.index == 0 for option in chosen.values())


def test_what_is_free_goes_where_an_error_allows_it_and_only_as_far() -> None:
    sizes = [Option(0, 10, 0.0), Option(1, 9, 0.0), Option(2, 8, 0.0), Option(3, 7, 1.0)]
    assert allocate_within_error({"one": sizes}, 0.0)["one"].index == 2
    assert allocate_within_cost({"one": sizes}, 9)["one"].index == 1


@pytest.mark.parametrize("off", [0.0, -TIED / 2, TIED / 2])
def test_of_sizes_within_rounding_the_larger_stays(off: float) -> None:
    dearest, larger, smaller = Option(0, 20, 0.0, TIED), Option(1, 9, 1.0, TIED), Option(2, 9, 1.0 + off, TIED)
    assert [option.index for option in lower_hull([dearest, larger, smaller])] == [0, 1]
    larger, smaller = Option(1, 9, 1.0, TIED), Option(2, 8, 1.0 + off, TIED)
    chosen = allocate_within_cost({"one": [dearest, larger, smaller, Option(3, 1, 1.1, TIED)]}, 9)
    assert chosen["one"].index == 1
    # one that removes more and costs more has nothing for it, however its error was rounded
    assert [each.index for each in lower_hull([dearest, Option(1, 8, 1.0, TIED), Option(2, 9, 1.0 + off, TIED)])] == [
        0,
        1,
    ]


def test_a_smaller_size_that_is_better_beyond_rounding_is_taken() -> None:
    sizes = [Option(0, 20, 0.0, TIED), Option(1, 9, 1.0, TIED), Option(2, 9, 1.0 - 2 * TIED, TIED)]
    assert [option.index for option in lower_hull(sizes)] == [0, 2]
