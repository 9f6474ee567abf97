"""What is handed on to the solver of later sites: each option changes the weights that come out."""

from __future__ import annotations

import pytest
import torch

from passes.analyze.sequential import solve_sequentially
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.names import Compensation
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove.masking import mask
from passes.sites.site import Site
from passes.solve.compensation import compensate
from tests.plans import plan_of
from tests.toy_block import samples, toy

PROGRAM, SITES = toy()
FIRST, SECOND = SITES
BATCHES = [((samples(8, seed), torch.tensor(90 * seed)), {}) for seed in range(4)]
PARAMETERS = dict(PROGRAM.graph_module.named_parameters())


def observe(program: Program, sites: tuple[Site, ...]) -> Statistics:
    return calibrate(instrument(program, sites, moments=True), BATCHES)


STATISTICS = observe(PROGRAM, SITES)
ENTRY = SitePlan("feed_forward", SECOND.units, tuple(range(0, SECOND.units, 2)))
PLAN: SlimPlan = plan_of(PROGRAM, {FIRST.name: (0, 2), SECOND.name: ENTRY.kept})


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("how", ["bias", "lstsq"])
def test_later_weights_are_those_that_are_solved_behind_the_slim_first_site(
    how: Compensation, as_published: bool
) -> None:
    found = solve_sequentially(PROGRAM, SITES, PLAN, STATISTICS, observe, 2, how, as_published=as_published)
    whole = SitePlan("feed_forward", SECOND.units, tuple(range(SECOND.units)))
    behind = SlimPlan(PLAN.fingerprint, {**PLAN.sites, SECOND.name: whole})
    sums = observe(mask(PROGRAM, behind), (SECOND,)).moments[SECOND.name]
    expected = compensate(SECOND, ENTRY, sums, PARAMETERS, how, as_published=as_published)
    assert found.updates.keys() == expected.updates.keys()
    for name, value in expected.updates.items():
        torch.testing.assert_close(found.updates[name], value, rtol=1e-9, atol=1e-12)
    assert found.predicted["sites"][SECOND.name]["site_error"] == pytest.approx(expected.error)
    assert found.sites == PLAN.sites
    assert found.policy["sequential"] == 2


def test_the_options_make_a_difference() -> None:
    by_option = [
        solve_sequentially(PROGRAM, SITES, PLAN, STATISTICS, observe, 2, "lstsq", as_published=as_published)
        for as_published in (False, True)
    ]
    name = f"{SECOND.tap}.weight"
    assert not torch.allclose(by_option[0].updates[name], by_option[1].updates[name])
