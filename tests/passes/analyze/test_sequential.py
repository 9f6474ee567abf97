"""Weights solved behind slim sites: other inputs, the same sizes, proved like any plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.analyze.methods import analyze
from passes.analyze.sequential import solve_sequentially
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove.masking import mask
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.site import Site
from passes.solve.reader import reader_inputs
from tests.covariances import error_of
from tests.toy_block import samples, toy

PROGRAM, SITES = toy()
BATCHES = [((samples(16, seed), torch.tensor(100 * seed)), {}) for seed in range(8)]


def observe(program: Program, sites: tuple[Site, ...]) -> Statistics:
    return calibrate(instrument(program, sites, moments=True), BATCHES)


STATISTICS = observe(PROGRAM, SITES)
PLAN = analyze(PROGRAM, SITES, STATISTICS, KeepParams(0.75))


FIRST, SECOND = SITES  # attention, then feed-forward


def behind_first() -> SlimPlan:
    """Carry the plan out at the first site only."""
    whole = SitePlan(SECOND.kind, SECOND.units, tuple(range(SECOND.units)))
    updates = {name: value for name, value in PLAN.updates.items() if name.startswith(FIRST.name)}
    return replace(PLAN, sites={**PLAN.sites, SECOND.name: whole}, updates=updates)


def test_only_later_sites_change_and_the_plan_is_proved() -> None:
    programs: list[Program] = []

    def note(program: Program, sites: tuple[Site, ...]) -> Statistics:
        assert sites == (SECOND,)
        programs.append(program)
        return observe(program, sites)

    found = solve_sequentially(PROGRAM, SITES, PLAN, STATISTICS, note, 2)
    slim = rewrite(PROGRAM, behind_first())
    with torch.no_grad():
        torch.testing.assert_close(programs[0](*BATCHES[0][0]), slim(*BATCHES[0][0]), rtol=1e-12, atol=1e-12)
    assert found.sites == PLAN.sites
    for name, value in PLAN.updates.items():
        assert torch.equal(found.updates[name], value) == name.startswith(FIRST.name)
    assert validate(PROGRAM, found, rewrite(PROGRAM, found)).relative_error < 1e-12
    assert found.policy["sequential"] == 2
    assert "relative_mse_by_sensitivities" not in found.predicted


def test_the_new_weights_are_better_on_the_inputs_they_will_have() -> None:
    found = solve_sequentially(PROGRAM, SITES, PLAN, STATISTICS, observe, 2)
    sums = observe(mask(PROGRAM, behind_first()), (SECOND,)).moments[SECOND.name]
    parameters = dict(PROGRAM.graph_module.named_parameters())
    inputs, name = reader_inputs(SECOND, sums, parameters), f"{SECOND.tap}.weight"
    kept = SECOND.columns(PLAN.sites[SECOND.name].mask())
    weight = parameters[name].detach()
    now, before = (error_of(weight, inputs, kept, each.updates[name]) for each in (found, PLAN))
    assert now < before
    assert found.predicted["sites"][SECOND.name]["site_error"] == pytest.approx(now, rel=1e-6)


@pytest.mark.parametrize("rounds", [-1, 0, 1, 3])
def test_a_number_of_groups_that_cant_be_is_refused(rounds: int) -> None:
    with pytest.raises(UsageError, match="give 2 to 2"):
        solve_sequentially(PROGRAM, SITES, PLAN, STATISTICS, observe, rounds)
