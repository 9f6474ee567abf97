"""What shapes say about a budget is what planning says after hours of calibration."""

from __future__ import annotations

import pytest

from passes.analyze.methods import analyze
from passes.analyze.refuse_unreachable import refuse_unreachable
from passes.errors import BudgetError
from passes.plan.policies import KeepMacs, KeepParams, MaxError, Threshold
from passes.sites.find import find_sites
from passes.solve.recipes import RECIPES
from tests.passes.analyze.test_methods import observed


@pytest.mark.parametrize("align", [None, 4])
@pytest.mark.parametrize("policy", [KeepParams, KeepMacs])
@pytest.mark.parametrize("method", RECIPES)
def test_the_least_is_what_planning_finds(method, policy, align):
    program, statistics = observed("unet_sd15")
    sites = find_sites(program)
    with pytest.raises(BudgetError) as early:
        refuse_unreachable(program, sites, policy(1e-6, align=align), method)
    with pytest.raises(BudgetError) as late:
        analyze(program, sites, statistics, policy(1e-6, align=align), method=method)
    assert str(early.value) == str(late.value)
    least = float(str(early.value).rpartition("ask for ")[2].partition(" ")[0])
    refuse_unreachable(program, sites, policy(least, align=align), method)
    with pytest.raises(BudgetError):
        refuse_unreachable(program, sites, policy(least - 2e-4, align=align), method)


def test_whatever_asks_for_no_share_can_be_met():
    program, _ = observed("unet_sd15")
    sites = find_sites(program)
    for policy in (None, MaxError(1e-9), Threshold(1.0)):
        refuse_unreachable(program, sites, policy, "best")
