"""Budgets in any cost: tables of counts agree with the counts, curves of any shape are met."""

from __future__ import annotations

import pytest

from passes.analyze.methods import analyze
from passes.errors import BudgetError, UsageError
from passes.plan.costs import CostTable, macs_table, params_table, program_macs, program_params
from passes.plan.policies import Keep, KeepParams
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.solve.recipes import RECIPES
from tests.observed_block import observed_block
from tests.plans import captured, updated_plan


@pytest.mark.parametrize("family", ["unet_sd15", "pixart"])
def test_tables_say_what_the_rewritten_program_has(family: str) -> None:
    program = captured(family)
    sites = find_sites(program)
    plan = updated_plan(program, seed=3)
    slim = rewrite(program, plan)
    assert params_table(program, sites).kept(sites, plan.sites) == program_params(slim)
    assert macs_table(program, sites).kept(sites, plan.sites) == program_macs(slim)


def steps(width: int, rest: int = 0) -> CostTable:
    """Make a cost that falls at multiples of 4 alone, and is dearer just below the whole than at it."""
    _, sites, _ = observed_block()

    def curve(whole: int) -> object:
        return lambda channels: width * (-(-channels // 4)) + (7 if channels == whole - 1 else 0)

    curves = {site.name: curve(site.width) for site in sites}
    total = rest + sum(curve(site.width) for site, curve in zip(sites, curves.values(), strict=True))  # type: ignore[operator]
    return CostTable("steps", "steps", total, curves, {"unit": "step"})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("fraction", [0.9, 0.6])
def test_costs_that_fall_in_steps_are_met(method: str, fraction: float) -> None:
    program, sites, statistics = observed_block()
    table = steps(10)
    plan = analyze(program, sites, statistics, Keep(fraction, table), method=method)
    left = table.kept(sites, plan.sites)
    assert left <= fraction * table.total
    assert plan.predicted["cost"] == {"of": "steps", "dense": table.total, "slim": left, "unit": "step"}
    assert plan.policy["budget"] == {"steps": fraction}


def test_the_optimum_buys_nothing_between_steps() -> None:
    program, sites, statistics = observed_block()
    plan = analyze(program, sites, statistics, Keep(0.7, steps(10)), method="best")
    for site in sites:
        entry = plan.sites[site.name]
        channels = len(entry.kept) * (entry.width or site.unit_width)
        # the largest size of its step: anything less costs the same and errs more
        assert channels == site.width or channels % 4 == 0


def test_counts_as_a_table_give_the_same_plan() -> None:
    program, sites, statistics = observed_block()
    for method in RECIPES:
        by_table = analyze(program, sites, statistics, Keep(0.85, params_table(program, sites)), method=method)
        assert by_table.sites == analyze(program, sites, statistics, KeepParams(0.85), method=method).sites


@pytest.mark.parametrize("method", RECIPES)
def test_a_cost_that_sites_are_no_part_of_can_t_be_met(method: str) -> None:
    program, sites, statistics = observed_block()
    table = steps(1, rest=10**6)
    with pytest.raises(BudgetError, match="of the steps can't be met"):
        analyze(program, sites, statistics, Keep(0.5, table), method=method)


def test_a_share_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match=r"`KeepSteps` is 1\.5"):
        Keep(1.5, steps(1))
