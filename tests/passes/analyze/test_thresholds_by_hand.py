"""Which units go, with numbers small enough to be followed by eye, and what is noted of it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from passes.analyze.thresholds import allocate, analyze
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.errors import BudgetError, UsageError
from passes.plan.costs import CostTable
from passes.plan.policies import Keep, KeepMacs, KeepParams, MaxError, Threshold, price_list, unmet
from passes.sites.site import Site
from tests.toy_block import samples, site_of, toy

PROGRAM, SITES = toy()
ATTENTION, FEED_FORWARD = site_of(SITES, "attention"), site_of(SITES, "feed_forward")
# Heads by their place, neurons from the last to the first.
SCORES = {
    ATTENTION.name: torch.tensor([0.5, 1.0, 0.25]),
    FEED_FORWARD.name: torch.arange(10.0, 0, -1),
}


def costs(head: int, neuron: int, total: int) -> CostTable:
    """Give a table by which a head, of 4 channels, and a neuron cost so much."""
    return CostTable(
        "latency",
        "nanoseconds",
        total,
        {ATTENTION.name: lambda channels: channels // 4 * head, FEED_FORWARD.name: lambda channels: channels * neuron},
    )


def kept(policy: Keep) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    plan = allocate(PROGRAM, SITES, SCORES, policy)
    return plan.sites[ATTENTION.name].kept, plan.sites[FEED_FORWARD.name].kept, plan.policy["tau"]


@pytest.mark.parametrize(
    ("fraction", "heads", "neurons", "tau"),
    [
        # By share of the largest: neurons .1 .2, a head .25, neurons .3 .4, then a head and a neuron of .5 each.
        (1.0, (0, 1, 2), tuple(range(10)), 0.0),
        (0.99, (0, 1, 2), tuple(range(9)), 0.2),
        (0.98, (0, 1, 2), tuple(range(8)), 0.25),
        (0.97, (0, 1), tuple(range(8)), 0.3),
        (0.88, (0, 1), tuple(range(8)), 0.3),
        (0.87, (0, 1), tuple(range(7)), 0.4),
        (0.86, (0, 1), tuple(range(6)), 0.5),
    ],
)
def test_the_least_scores_go_first_until_the_budget_is_met(
    fraction: float, heads: tuple[int, ...], neurons: tuple[int, ...], tau: float
) -> None:
    # 3 heads of 10 and 10 neurons of 1, among 100.
    found = kept(Keep(fraction, costs(10, 1, 100)))
    assert found[:2] == (heads, neurons)
    assert found[2] == pytest.approx(tau)


def test_one_unit_stays_in_each_and_what_can_be_met_is_said() -> None:
    with pytest.raises(
        BudgetError, match=r"0\.5 of the nanoseconds can't be met: with one unit left.*0\.71 of them stay"
    ):
        kept(Keep(0.5, costs(10, 1, 100)))
    heads, neurons, tau = kept(Keep(0.71, costs(10, 1, 100)))
    assert (heads, neurons, tau) == ((1,), (0,), 1.0)


def test_a_multiple_is_filled_with_the_best_of_those_that_went() -> None:
    plan = allocate(PROGRAM, SITES, SCORES, Threshold(0.85, align=4))
    # Of neurons only 10 and 9 reach 0.85 of the largest; two more make four channels. A head has four by itself.
    assert plan.sites[FEED_FORWARD.name].kept == (0, 1, 2, 3)
    assert plan.sites[ATTENTION.name].kept == (1,)
    assert plan.policy["align"] == 4
    eight = allocate(PROGRAM, SITES, SCORES, Threshold(0.85, align=8))
    assert eight.sites[ATTENTION.name].kept == (0, 1)
    assert eight.sites[FEED_FORWARD.name].kept == tuple(range(8))
    assert "align" not in allocate(PROGRAM, SITES, SCORES, Threshold(0.85)).policy


def test_what_a_multiple_saves_is_what_counts_for_a_budget() -> None:
    table = costs(10, 1, 100)
    plan = allocate(PROGRAM, SITES, SCORES, Keep(0.98, table, align=4))
    # Two neurons fewer are rounded up to eight: the first saving is of two at once.
    assert plan.sites[FEED_FORWARD.name].kept == tuple(range(8))
    assert plan.sites[ATTENTION.name].kept == (0, 1, 2)


def test_a_policy_without_a_threshold_is_refused() -> None:
    with pytest.raises(UsageError, match="predicts no error"):
        allocate(PROGRAM, SITES, SCORES, MaxError())


@pytest.mark.parametrize(
    ("policy", "name"),
    [(KeepParams(0.5), "params"), (KeepMacs(0.5), "macs"), (Keep(0.5, costs(1, 1, 100)), "latency")],
)
def test_what_a_budget_counts(policy: Keep, name: str) -> None:
    table, budget = price_list(PROGRAM, SITES, policy)
    assert (policy.counts, table.name) == (name, name)
    assert budget == table.total // 2


def test_a_share_is_taken_exactly() -> None:
    # 0.57 · 100 is 56.99999… in binary.
    assert price_list(PROGRAM, SITES, Keep(0.57, costs(1, 1, 100)))[1] == 57
    assert price_list(PROGRAM, SITES, Keep(0.29, costs(1, 1, 100)))[1] == 29


def test_what_could_be_met_is_rounded_up() -> None:
    error = unmet(Keep(0.5, costs(1, 1, 30_000)), costs(1, 1, 30_000), 20_002, "so many left")
    assert str(error).endswith("with so many left, 0.6668 of them stay; ask for 0.6668 or more")


def double(site: Site, statistics: Statistics) -> Tensor:
    return torch.ones(site.units)


def test_a_criterion_of_one_s_own_is_noted_by_its_name() -> None:
    statistics = calibrate(instrument(PROGRAM, SITES), [((samples(4), torch.tensor(5)), {})])
    for criterion, name in ((double, "double"), (functools.partial(double), "custom")):
        plan = analyze(PROGRAM, SITES, statistics, Threshold(1.0), criterion)
        assert plan.policy["criterion"] == name
        assert (plan.policy["samples"], plan.policy["calls"]) == (4, 1)
        assert plan.sites[ATTENTION.name].kept == (0, 1, 2)
