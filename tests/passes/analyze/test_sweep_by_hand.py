"""What a sweep asks of the planner, and what it makes of the answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from passes.analyze.sweep import SHARES, TAUS, sweep_budgets, sweep_thresholds
from passes.errors import BudgetError
from passes.plan.costs import macs_table, params_table
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SitePlan
from tests.toy_block import toy

PROGRAM, SITES = toy()


class Planner:
    """Gives one unit less in each site each time, and no more than there are."""

    def __init__(self) -> None:
        self.asked: list[KeepParams] = []

    def sizes_within(self, policy: KeepParams) -> tuple[dict[str, SitePlan], float]:
        self.asked.append(policy)
        gone = len(self.asked)
        if gone > 2:
            raise BudgetError("no more")
        return {
            site.name: SitePlan(site.kind, site.units, tuple(range(site.units - gone))) for site in SITES
        }, 0.1 * gone


def test_thresholds_and_shares_go_from_nothing_to_nearly_all() -> None:
    assert TAUS[:2] == (0.0, pytest.approx(1e-3))
    assert TAUS[-1] == pytest.approx(1)
    assert list(TAUS) == sorted(TAUS)
    assert len({round(later / earlier, 9) for earlier, later in pairwise(TAUS[1:])}) == 1
    assert (SHARES[0], SHARES[-1]) == (0.0, pytest.approx(0.96))
    assert list(SHARES) == sorted(SHARES)


def test_each_threshold_is_carried_out_on_paper() -> None:
    scores = {site.name: torch.arange(1.0, site.units + 1) for site in SITES}
    points = sweep_thresholds(PROGRAM, SITES, scores, taus=(0.0, 0.55, 1.0))
    params, macs = params_table(PROGRAM, SITES), macs_table(PROGRAM, SITES)
    for point, tau in zip(points, (0.0, 0.55, 1.0), strict=True):
        for site in SITES:
            kept = tuple(unit for unit in range(site.units) if (unit + 1) / site.units >= tau)
            assert point.entries[site.name].kept == kept
        assert (point.at, point.error) == (tau, None)
        assert (point.params, point.macs) == (params.kept(SITES, point.entries), macs.kept(SITES, point.entries))
    aligned = sweep_thresholds(PROGRAM, SITES, scores, align=4, taus=(0.95,))
    assert {len(entry.kept) * site.unit_width % 4 for site in SITES for entry in [aligned[0].entries[site.name]]} == {0}
    # From 1 to 10, the least is nought and the seventh two thirds of the way.
    (by_range,) = sweep_thresholds(PROGRAM, SITES, scores, "minmax", taus=(0.6,))
    neurons = next(site for site in SITES if site.kind == "feed_forward")
    assert by_range.entries[neurons.name].kept == (6, 7, 8, 9)


@pytest.mark.parametrize("align", [None, 8])
def test_each_share_of_the_sites_is_asked_for_until_one_can_t_be_met(align: int | None) -> None:
    planner: Any = Planner()
    points = sweep_budgets(PROGRAM, SITES, planner, align, (0.1, 0.2, 0.9, 0.95))
    params, macs = params_table(PROGRAM, SITES), macs_table(PROGRAM, SITES)
    removable = sum(params.whole(site) for site in SITES)
    assert [each.fraction for each in planner.asked] == [
        pytest.approx(1 - share * removable / params.total) for share in (0.1, 0.2, 0.9)
    ]
    assert {each.align for each in planner.asked} == {align}
    assert [point.error for point in points] == [pytest.approx(0.1), pytest.approx(0.2)]
    for gone, point in enumerate(points, start=1):
        entries = {site.name: SitePlan(site.kind, site.units, tuple(range(site.units - gone))) for site in SITES}
        assert point.entries == entries
        assert (point.params, point.macs) == (params.kept(SITES, entries), macs.kept(SITES, entries))
