"""The threshold rule and the budgets solved for it, against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.analyze.thresholds import allocate, analyze, keep, normalize
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.errors import BudgetError, CalibrationError, PlanError, UsageError
from passes.names import Normalization
from passes.plan import costs
from passes.plan.policies import KeepMacs, KeepParams, Policy, Threshold
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site
from tests.toy_block import build, capture_block, samples, site_of, toy

Case = tuple[Program, tuple[Site, ...], dict[str, torch.Tensor]]


@pytest.fixture
def case() -> Case:
    program, sites = toy()
    generator = torch.Generator().manual_seed(3)
    return program, sites, {site.name: torch.rand(site.units, generator=generator) for site in sites}


def removed(plan: SlimPlan, sites: tuple[Site, ...]) -> dict[str, int]:
    return {site.name: site.units - len(plan.sites[site.name].kept) for site in sites}


def cost(program: Program, sites: tuple[Site, ...], plan: SlimPlan, policy: Policy) -> int:
    params = isinstance(policy, KeepParams)
    unit = costs.unit_params if params else costs.unit_macs
    total = costs.program_params(program) if params else costs.program_macs(program)
    gone = removed(plan, sites)
    return total - sum(gone[site.name] * unit(program, site) for site in sites)


def test_normalization() -> None:
    scores = torch.tensor([1.0, 2.0, 4.0])
    assert normalize(scores).tolist() == [0.25, 0.5, 1]
    assert normalize(scores, "minmax").tolist() == pytest.approx([0, 1 / 3, 1], abs=1e-15)
    assert normalize(torch.zeros(3)).tolist() == normalize(torch.zeros(3), "minmax").tolist() == [0, 0, 0]
    assert normalize(torch.full((2,), 0.3)).tolist() == normalize(torch.full((2,), 0.3), "minmax").tolist() == [1, 1]


def test_units_at_the_threshold_stay_and_one_stays_in_any_case() -> None:
    assert keep(torch.tensor([0.05, 0.049, 1.0]), 0.05).tolist() == [True, False, True]
    assert keep(torch.zeros(3), 0.5).tolist() == [True, False, False]


def test_one_threshold_gives_each_site_its_own_ratio() -> None:
    program, sites = toy()
    feed_forward, attention = site_of(sites, "feed_forward"), site_of(sites, "attention")
    scores = {
        feed_forward.name: torch.tensor([1.0, 4, 9, 10, 10, 20, 30, 40, 90, 100]),
        attention.name: torch.tensor([0.02, 0.3, 0.2]),
    }
    plan = allocate(program, sites, scores, Threshold(0.1), record={"samples": 5})
    assert plan.sites[feed_forward.name].kept == (3, 4, 5, 6, 7, 8, 9)
    assert plan.sites[attention.name].kept == (1, 2)
    assert plan.policy == {"method": "threshold", "normalize": "max", "tau": 0.1, "samples": 5}
    plan = allocate(program, sites, scores, Threshold(0.09, "minmax"))
    assert plan.sites[feed_forward.name].kept == (3, 4, 5, 6, 7, 8, 9)
    assert plan.sites[attention.name].kept == (1, 2)
    assert SlimPlan.from_json(plan.to_json()) == plan


def test_the_ends_of_the_threshold(case: Case) -> None:
    program, sites, scores = case
    assert not any(removed(allocate(program, sites, scores, Threshold(0)), sites).values())
    most = allocate(program, sites, scores, Threshold(1))
    assert {name: plan.kept for name, plan in most.sites.items()} == {
        name: (int(values.argmax()),) for name, values in scores.items()
    }


@pytest.mark.parametrize("policy", [KeepParams, KeepMacs])
@pytest.mark.parametrize("fraction", [0.95, 0.8, 0.75])
@pytest.mark.parametrize("how", ["max", "minmax"])
def test_budgets_are_met_to_one_unit(case: Case, policy: type[KeepParams], fraction: float, how: Normalization) -> None:
    program, sites, scores = case
    chosen = policy(fraction, how)
    plan = allocate(program, sites, scores, chosen)
    total = costs.program_params(program) if policy is KeepParams else costs.program_macs(program)
    unit = costs.unit_params if policy is KeepParams else costs.unit_macs
    left = cost(program, sites, plan, chosen)
    gone, stay = [], [1.0]
    for site in sites:
        relative, share = normalize(scores[site.name], how).tolist(), normalize(scores[site.name]).tolist()
        kept = set(plan.sites[site.name].kept)
        gone += [(relative[i], share[i], unit(program, site)) for i in range(site.units) if i not in kept]
        stay += [relative[i] for i in kept]
    assert left <= fraction * total
    assert max(gone)[0] <= plan.policy["tau"] == min(stay)
    assert left + max(gone)[2] > fraction * total


@pytest.mark.parametrize("policy", [KeepParams(0.8), KeepMacs(0.8), KeepParams(0.75)])
def test_the_solved_threshold_gives_the_same_plan(case: Case, policy: Policy) -> None:
    program, sites, scores = case
    plan = allocate(program, sites, scores, policy)
    assert allocate(program, sites, scores, Threshold(plan.policy["tau"])).sites == plan.sites


def test_min_max_ties_go_by_their_share_of_the_largest() -> None:
    program, sites = toy()
    feed_forward, attention = site_of(sites, "feed_forward"), site_of(sites, "attention")
    for first, second in ((feed_forward, attention), (attention, feed_forward)):
        scores = {site.name: torch.linspace(0.5, 1, site.units) for site in sites}
        scores[first.name][0] = 0.1
        plan = allocate(program, sites, scores, KeepParams(1 - 1 / costs.program_params(program), "minmax"))
        assert removed(plan, sites) == {first.name: 1, second.name: 0}


def test_a_budget_of_everything_removes_nothing(case: Case) -> None:
    program, sites, scores = case
    plan = allocate(program, sites, scores, KeepParams(1.0))
    assert not any(removed(plan, sites).values())
    assert plan.policy["tau"] == 0
    assert plan.policy["budget"] == {"params": 1.0}


def test_equal_scores_go_one_by_one() -> None:
    program, sites = toy()
    policy = KeepParams(1 - 2.5 * costs.unit_params(program, sites[0]) / costs.program_params(program))
    plan = allocate(program, sites, {site.name: torch.ones(site.units) for site in sites}, policy)
    assert removed(plan, sites)[sites[0].name] in (2, 3)
    assert cost(program, sites, plan, policy) <= policy.fraction * costs.program_params(program)


@pytest.mark.parametrize("policy", [KeepParams, KeepMacs])
def test_budgets_that_nothing_meets_say_what_can(case: Case, policy: type[KeepParams]) -> None:
    program, sites, scores = case
    with pytest.raises(BudgetError, match="ask for") as caught:
        allocate(program, sites, scores, policy(0.01))
    least = float(str(caught.value).split("ask for ")[1].split()[0])
    plan = allocate(program, sites, scores, policy(least))
    assert all(len(site.kept) == 1 for site in plan.sites.values())
    with pytest.raises(BudgetError):
        allocate(program, sites, scores, policy(least - 0.0002))


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan"), float("inf")])
def test_thresholds_out_of_range(tau: float) -> None:
    with pytest.raises(UsageError, match=r"`Threshold` is .*\[0, 1\]"):
        Threshold(tau)


@pytest.mark.parametrize("fraction", [0.0, -1, 1.5, float("nan")])
@pytest.mark.parametrize("policy", [KeepParams, KeepMacs])
def test_fractions_out_of_range(policy: type[KeepParams], fraction: float) -> None:
    with pytest.raises(UsageError, match="at most 1"):
        policy(fraction)


def test_unknown_normalization() -> None:
    with pytest.raises(UsageError, match="'mean'"):
        Threshold(0.1, "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [(None, "has no scores"), ([1.0], "shape"), ([float("nan")] * 10, "finite"), ([-1.0] * 10, "negative")],
)
def test_scores_that_fit_no_site(case: Case, values: list[float] | None, message: str) -> None:
    program, sites, scores = case
    name = site_of(sites, "feed_forward").name
    if values is None:
        del scores[name]
    else:
        scores[name] = torch.tensor(values)
    with pytest.raises(CalibrationError, match=f"{name}.*{message}"):
        allocate(program, sites, scores, Threshold())


def test_analyze_notes_how_the_plan_came_about() -> None:
    program, sites = toy()
    watched = instrument(program, sites, attention_weights=True)
    statistics = calibrate(watched, [((samples(4), torch.tensor(5)), {})])
    plan = analyze(program, sites, statistics, Threshold(0.3), "entropy")
    assert plan.policy == {
        "method": "threshold",
        "normalize": "max",
        "tau": 0.3,
        "criterion": {"feed_forward": "mean_abs", "attention": "entropy"},
        "samples": 4,
        "calls": 1,
    }
    assert SlimPlan.from_json(plan.to_json()) == plan
    assert analyze(program, sites, statistics) == analyze(program, sites, statistics, Threshold(0.05))


def test_analyze_refuses_statistics_of_another_model() -> None:
    program, sites = toy()
    statistics = calibrate(instrument(program, sites), [((samples(4), torch.tensor(5)), {})])
    for other in (capture_block(build(seed=1)), capture_block(build(neurons=11))):
        with pytest.raises(PlanError, match="not of this model"):
            analyze(other, find_sites(other), statistics)
    with pytest.raises(CalibrationError, match="no token"):
        analyze(program, sites, replace(instrument(program, sites).statistics()))
