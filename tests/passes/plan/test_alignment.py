"""Sizes held to multiples: for every method, policy and site, and never past the whole or below one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.analyze.methods import analyze
from passes.analyze.thresholds import allocate
from passes.errors import BudgetError, UsageError
from passes.plan.alignment import is_aligned, rounded_up
from passes.plan.costs import macs_table, params_table
from passes.plan.policies import Keep, KeepMacs, KeepParams, MaxError, Policy, Threshold
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.sites.site import Site
from passes.solve.recipes import RECIPES
from tests.observed_block import observed_block
from tests.sites import linear_site

SITES = st.builds(
    lambda units, width: linear_site("site", "attention" if width > 1 else "feed_forward", units, width, (), "out"),
    st.integers(1, 40),
    st.sampled_from([1, 3, 4, 12, 24, 40, 64]),
)
ALIGNED = st.sampled_from([None, 1, 8, 16, 64])


def check_sizes(program: Program, plan: SlimPlan, align: int) -> None:
    for site in find_sites(program):
        entry = plan.sites[site.name]
        channels = len(entry.kept) * (entry.width or site.unit_width)
        assert channels % align == 0 or channels == site.width, site.name
        if entry.width not in (None, site.unit_width) and site.unit_width >= align:
            assert entry.width % align == 0, site.name


@settings(max_examples=100, deadline=None)
@given(site=SITES, align=ALIGNED, data=st.data())
def test_rounding_up_gives_the_next_size_offered(site: Site, align: int | None, data: st.DataObject) -> None:
    units = data.draw(st.integers(1, site.units))
    found = rounded_up(site, units, align)
    assert units <= found <= site.units
    assert found == site.units or found * site.unit_width % (align or 1) == 0
    assert not any(is_aligned(site, count, None, align) for count in range(units, found))
    assert rounded_up(site, found, align) == found
    if units < site.units:
        assert rounded_up(site, units + 1, align) >= found


def test_heads_are_held_to_multiples_each_and_together() -> None:
    heads = linear_site("site", "attention", 8, 40, (), "out")
    offered = {align: [each for each in range(1, 41) if is_aligned(heads, 8, each, align)] for align in (8, 16, 64)}
    assert offered == {8: [8, 16, 24, 32, 40], 16: [16, 32, 40], 64: [8, 16, 24, 32, 40]}
    assert [each for each in range(1, 9) if is_aligned(heads, each, None, 64)] == [8]
    small = linear_site(
        "site", "attention", 4, 8, (), "out"
    )  # as wide as the multiple: all heads together are held to it
    assert [each for each in range(1, 9) if is_aligned(small, 4, each, 8)] == [2, 4, 6, 8]
    assert [each for each in range(1, 9) if is_aligned(heads, each, None, 16)] == [2, 4, 6, 8]


@pytest.mark.parametrize("align", [0, -8, 2.5, True])
def test_what_is_no_multiple_is_refused(align: int) -> None:
    with pytest.raises(UsageError, match="align is"):
        KeepParams(0.9, align=align)


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("align", [4, 6, 8])
def test_every_size_of_a_plan_is_a_multiple(method: str, align: int) -> None:
    program, sites, statistics = observed_block()
    policies: list[Policy] = [KeepParams(0.93, align=align), KeepMacs(0.93, align=align)]
    policies.append(Keep(0.93, params_table(program, sites), align=align))
    policies += [MaxError(1e-2, align)] if method in ("best", "slimdiff") else []
    policies += [Threshold(0.6, align=align)] if method == "threshold" else []
    for policy in policies:
        plan = analyze(program, sites, statistics, policy, method=method)
        check_sizes(program, plan, align)
        assert plan.policy["align"] == align
        if not isinstance(policy, Threshold | MaxError):
            assert any(len(each.kept) < each.units or each.width for each in plan.sites.values())
            table = (macs_table if isinstance(policy, KeepMacs) else params_table)(program, sites)
            assert table.kept(sites, plan.sites) <= policy.fraction * table.total
    assert validate(program, plan, rewrite(program, plan)).relative_error < 1e-12


def test_coarser_multiples_keep_more() -> None:
    program, sites, statistics = observed_block()
    table, grown = params_table(program, sites), 0
    for tau in (0.5, 0.6, 0.7, 0.8):
        left = [
            table.kept(sites, analyze(program, sites, statistics, Threshold(tau, align=align)).sites)
            for align in (None, 2, 4, 8)
        ]
        assert left == sorted(left)
        grown += left[0] < left[-1]
    assert grown


def test_a_larger_budget_expects_no_more_error() -> None:
    program, sites, statistics = observed_block()
    errors = [
        analyze(program, sites, statistics, KeepParams(fraction, align=4)).predicted["relative_mse_by_sensitivities"]
        for fraction in (0.98, 0.94, 0.9)
    ]
    assert errors == sorted(errors)


def test_units_put_back_are_the_best_of_the_removed() -> None:
    program, sites, statistics = observed_block()
    free = analyze(program, sites, statistics, Threshold(0.6))
    held = analyze(program, sites, statistics, Threshold(0.6, align=8))
    lower = analyze(program, sites, statistics, Threshold(0.3))
    for site in sites:
        few, more = set(free.sites[site.name].kept), set(held.sites[site.name].kept)
        assert few <= more
        wide = set(lower.sites[site.name].kept)
        assert more <= wide or wide <= more  # both are the best so many, by the same score


def test_a_site_that_has_no_such_size_stays_whole() -> None:
    program, sites, statistics = observed_block()
    plan = analyze(program, sites, statistics, MaxError(0.5, 4096))
    assert all(len(each.kept) == each.units and each.width is None for each in plan.sites.values())
    with pytest.raises(BudgetError, match="can't be met"):
        analyze(program, sites, statistics, KeepParams(0.9, align=4096))
    with pytest.raises(BudgetError, match="can't be met"):
        analyze(program, sites, statistics, KeepParams(0.9, align=4096), method="threshold")


def test_units_are_put_back_in_the_order_of_their_scores() -> None:
    program, sites, _ = observed_block()
    heads, neurons = (next(site for site in sites if site.kind == kind) for kind in ("attention", "feed_forward"))
    scores = torch.full((40,), 0.1)
    # Above the threshold are 3, 20 and 39; of the others 30 is the best, then 0, 7, 12, 5, 38.
    for unit, value in ((3, 8.5), (20, 10.0), (39, 9.0), (30, 7.0), (0, 6.0), (7, 5.0), (12, 4.0), (5, 3.0), (38, 2.0)):
        scores[unit] = value
    both = {heads.name: torch.tensor([1.0, 3.0, 2.0]), neurons.name: scores}
    for align, kept in ((None, (3, 20, 39)), (4, (3, 20, 30, 39)), (8, (0, 3, 5, 7, 12, 20, 30, 39))):
        plan = allocate(program, sites, both, Threshold(0.8, align=align))
        assert plan.sites[neurons.name].kept == kept
    # Heads are 4 wide: three of them are the whole site, two are a multiple of 8.
    held = {
        align: allocate(program, sites, both, Threshold(0.8, align=align)).sites[heads.name] for align in (4, 8, 16)
    }
    assert {align: entry.kept for align, entry in held.items()} == {4: (1,), 8: (1, 2), 16: (0, 1, 2)}
