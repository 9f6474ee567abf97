"""Spend one budget over all sites where it hurts least: convex hulls and one Lagrange multiplier, no search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from passes.errors import BudgetError


@dataclass(frozen=True)
class Option:
    """One size of a site, with what it costs.

    Attributes:
        index: which of the site's choices it is.
        cost: parameters or MACs that stay.
        error: expected relative squared error of the prediction.
        rounding: how far off the error may be by the rounding of what it was computed from.
    """

    index: int
    cost: int
    error: float
    rounding: float = 0.0


def better(one: Option, other: Option) -> bool:
    """Say whether an option has less error than another: by more than the rounding of either."""
    return one.error < other.error - max(one.rounding, other.rounding)


def largest_of_least(options: Sequence[Option]) -> Option:
    """Give the option of least error; of those within rounding of it, the one that removes least."""
    least = min(options, key=lambda each: each.error)
    return min((each for each in options if not better(least, each)), key=lambda each: each.index)


def lower_hull(options: Sequence[Option]) -> list[Option]:
    """Keep the options on the lower convex hull of error over cost, from the most expensive to the cheapest.

    The first is what a budget that everything meets gets. So an option that is cheaper and no worse takes another's
    place only where it is better beyond rounding or removes less: the hull of a site whose whole is among its options,
    as index 0 and with no error, begins with the whole.
    """
    by_cost: dict[int, list[Option]] = {}
    for option in options:
        by_cost.setdefault(option.cost, []).append(option)
    hull: list[Option] = []
    for cost in sorted(by_cost, reverse=True):
        option = largest_of_least(by_cost[cost])
        while hull and not better(hull[-1], option) and (better(option, hull[-1]) or option.index < hull[-1].index):
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(dearer: Option, cheaper: Option) -> float:
    """Give what is lost for each unit of cost saved."""
    return (cheaper.error - dearer.error) / (dearer.cost - cheaper.cost)


def allocate_within_cost(sites: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """Minimise the summed error under a summed cost.

    Steps along the hulls are taken in the order of their slopes: that is the optimum for every multiplier. The last
    step may save more than is needed: then the best of its site's options that still do is taken instead.

    Args:
        sites: by site, its options.
        budget: largest summed cost.

    Raises:
        BudgetError: the cheapest options together cost more.
    """
    hulls = {name: lower_hull(options) for name, options in sites.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    total = sum(option.cost for option in chosen.values())
    for name, step in _steps(hulls):
        if total <= budget:
            return chosen
        room = budget - (total - chosen[name].cost)
        if step.cost < room:
            fitting = [each for each in sites[name] if step.cost <= each.cost <= room]
            step = largest_of_least(fitting)
        total += step.cost - chosen[name].cost
        chosen[name] = step
    if total > budget:
        raise BudgetError(f"{budget} can't be met; the least is {total}")
    return chosen


def allocate_within_error(sites: Mapping[str, Sequence[Option]], limit: float) -> dict[str, Option]:
    """Minimise the summed cost while the summed error stays within a limit: the same steps, as far as they go."""
    hulls = {name: lower_hull(options) for name, options in sites.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    total = sum(option.error for option in chosen.values())
    for name, step in _steps(hulls):
        if total + step.error - chosen[name].error > limit:
            break
        total += step.error - chosen[name].error
        chosen[name] = step
    return chosen


def _steps(hulls: Mapping[str, Sequence[Option]]) -> list[tuple[str, Option]]:
    steps = [
        (_slope(before, after), name, position, after)
        for name, hull in hulls.items()
        for position, (before, after) in enumerate(pairwise(hull))
    ]
    steps.sort(key=lambda step: step[:3])
    return [(name, after) for _, name, _, after in steps]
