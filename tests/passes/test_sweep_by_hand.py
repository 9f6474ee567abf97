"""What a sweep asks of the planner, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from passes.cost_table import macs_table, params_table
from passes.errors import BudgetError
from passes.plan import SitePlan
from passes.policies import KeepParams
from passes.sweep import sweep_budgets
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
