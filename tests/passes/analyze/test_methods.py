"""Methods by name: their plans are proved, meet their budgets, and expect what then happens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from passes.analyze.families import families
from passes.analyze.methods import analyze, choose_method, planner_for
from passes.analyze.site_errors import SiteErrors
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.moments import KEY, QUERY, SECOND
from passes.calibrate.statistics import Statistics
from passes.errors import BudgetError, UsageError
from passes.names import Compensation
from passes.plan.costs import CostTable, program_macs, program_params
from passes.plan.policies import Keep, KeepMacs, KeepParams, MaxError, Policy
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.solve.recipes import RECIPES, Method
from tests.families import of_families
from tests.plans import captured
from tests.toy_block import samples, toy

FAMILIES = ["unet_sd15", "pixart"]
BOTH = of_families(FAMILIES, ["unet_sd15"])
BY_BUDGET = [method for method in RECIPES if method != "threshold"]


@cache
def observed(family: str) -> tuple[Program, Statistics]:
    """Calibrate a toy denoiser on inputs like its traced ones."""
    program = captured(family)
    watched = instrument(program, find_sites(program), moments=True)
    batches = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randn(program.args[0].shape, generator=generator, dtype=torch.float64)
        text = {
            name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in program.kwargs.items()
        }
        rest = [each.clone() if isinstance(each, torch.Tensor) else each for each in program.args[1:]]
        batches.append(((sample, *rest), text))
    return program, calibrate(watched, batches)


def planned(family: str, policy: Policy, method: str, how: Compensation | None = None) -> tuple[Program, SlimPlan]:
    program, statistics = observed(family)
    return program, analyze(program, find_sites(program), statistics, policy, method=method, compensation=how)


@pytest.mark.parametrize(
    ("method", "family"),
    [
        pytest.param(
            method,
            family,
            marks=[pytest.mark.slow] if family == "unet_sd15" else [],
        )
        for method in RECIPES
        for family in FAMILIES
    ],
)
def test_plans_are_proved_and_meet_their_budgets(family: str, method: str) -> None:
    for policy, size in ((KeepParams(0.9), program_params), (KeepMacs(0.92), program_macs)):
        program, plan = planned(family, policy, method, "lstsq" if method == "threshold" else None)
        slim = rewrite(program, plan)
        assert validate(program, plan, slim).relative_error < 1e-12
        assert size(slim) <= policy.fraction * size(program)
        assert size(slim) > 0.7 * size(program)  # a head of two is half a site
        assert SlimPlan.from_json(plan.to_json(), plan.tensors()).to_json() == plan.to_json()


@BOTH
def test_best_expects_least(family: str) -> None:
    errors = {}
    for method in RECIPES:
        how: Compensation | None = "lstsq" if method == "threshold" else None
        errors[method] = planned(family, KeepParams(0.85), method, how)[1].predicted["relative_mse"]
    assert errors["best"] == min(errors.values())


@BOTH
def test_compensation_never_raises_the_error_of_a_site(family: str) -> None:
    sites = [
        planned(family, KeepParams(0.9), "threshold", how)[1].predicted["sites"] for how in ("none", "bias", "lstsq")
    ]
    for name in sites[0]:
        assert sites[2][name]["site_error"] <= sites[1][name]["site_error"] * (1 + 1e-9)
        assert sites[1][name]["site_error"] <= sites[0][name]["site_error"] * (1 + 1e-9)


@pytest.mark.parametrize(
    "limit", [pytest.param(1e-4, marks=pytest.mark.slow), 1e-3, pytest.param(1e-2, marks=pytest.mark.slow)]
)
def test_as_much_goes_as_the_error_allows(limit: float) -> None:
    program, plan = planned("unet_sd15", MaxError(limit), "best")
    assert 0 < plan.predicted["relative_mse"] <= limit
    assert validate(program, plan, rewrite(program, plan)).relative_error < 1e-12
    assert plan.policy["max_error"] == limit


@pytest.mark.slow
def test_a_larger_error_removes_more() -> None:
    sizes = []
    for limit in (1e-4, 1e-3, 1e-2):
        program, plan = planned("unet_sd15", MaxError(limit), "best")
        sizes.append(program_params(rewrite(program, plan)))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_an_error_that_nothing_meets_removes_nothing_that_counts() -> None:
    program, plan = planned("unet_sd15", MaxError(1e-30), "best")
    assert plan.predicted["relative_mse"] <= 1e-30
    assert program_params(rewrite(program, plan)) <= program_params(program)


@pytest.mark.parametrize(
    "method", [pytest.param(each, marks=pytest.mark.slow) if each == "best" else each for each in BY_BUDGET]
)
def test_like_blocks_stay_alike_if_asked(method: str) -> None:
    program, statistics = observed("unet_sd15")
    sites = find_sites(program)
    found = families(sites, dict(program.graph_module.named_parameters()))
    assert max(map(len, found)) == 3  # one block on the way down, two on the way up
    free, uniform = (
        analyze(program, sites, statistics, KeepParams(0.9, uniform=each), method=method) for each in (False, True)
    )
    assert "uniform" not in free.policy
    assert uniform.policy["uniform"] is True
    for family in found:
        assert len({(len(uniform.sites[name].kept), uniform.sites[name].width) for name in family}) == 1
    slim = rewrite(program, uniform)
    assert validate(program, uniform, slim).relative_error < 1e-12
    assert program_params(slim) <= 0.9 * program_params(program)
    if method == "best":
        # a narrower choice of sizes; the last step of either optimum may overshoot
        by_sum = [plan.predicted["relative_mse_by_sensitivities"] for plan in (free, uniform)]
        assert by_sum[0] <= by_sum[1] * (1 + 1e-9)


def test_like_blocks_stay_alike_within_an_error() -> None:
    program, statistics = observed("unet_sd15")
    plan = analyze(program, find_sites(program), statistics, MaxError(1e-2, uniform=True), method="best")
    assert plan.predicted["relative_mse"] <= 1e-2
    for family in families(find_sites(program), dict(program.graph_module.named_parameters())):
        assert len({(len(plan.sites[name].kept), plan.sites[name].width) for name in family}) == 1


def test_a_threshold_knows_no_common_size() -> None:
    with pytest.raises(UsageError, match="leave `uniform` out"):
        choose_method("threshold", KeepParams(0.9, uniform=True))


@pytest.mark.parametrize("method", BY_BUDGET)
def test_a_budget_out_of_reach_says_the_least(method: str) -> None:
    with pytest.raises(BudgetError, match="can't be met"):
        planned("unet_sd15", KeepParams(0.01), method)


def table(program: Program) -> Keep:
    """Make a custom budget of all there is, by costs that are no use: every smaller size costs as much as the whole."""
    sites = find_sites(program)
    return Keep(1.0, CostTable("latency", "latency", 1000 * len(sites), {site.name: lambda _: 900 for site in sites}))


@BOTH
@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("budget", ["params", "macs", "cost"])
def test_all_of_it_stays_where_all_may(family: str, method: str, budget: str) -> None:
    program, _ = observed(family)
    policy = {"params": KeepParams(1.0), "macs": KeepMacs(1.0), "cost": table(program)}[budget]
    for how in ("none", "lstsq") if method == "threshold" else (None,):
        _, plan = planned(family, policy, method, how)
        assert all(len(entry.kept) == entry.units and entry.width is None for entry in plan.sites.values())
        assert not plan.updates
        assert not plan.adapter_maps
        assert plan.predicted["relative_mse"] == 0
        slim = rewrite(program, plan)
        assert program_params(slim) == program_params(program)
        with torch.no_grad():
            assert torch.equal(slim(*program.args, **program.kwargs), program(*program.args, **program.kwargs))


@pytest.mark.parametrize("method", RECIPES)
def test_a_budget_just_below_all_of_it_removes_something(method: str) -> None:
    program, plan = planned("unet_sd15", KeepParams(0.9999), method, "lstsq" if method == "threshold" else None)
    assert program_params(rewrite(program, plan)) < program_params(program)


def rounded_otherwise(statistics: Statistics, seed: int) -> Statistics:
    """Change each sum by a few units of its last place, as another processor's kernels would."""
    draw, eps = torch.Generator().manual_seed(seed), torch.finfo(torch.float64).eps

    def moved(name: str, value: torch.Tensor) -> torch.Tensor:
        noise = 4 * eps * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        return value * (1 + (noise + noise.mT if name in (SECOND, QUERY, KEY) else noise))

    moments = {
        site: {name: moved(name, value) for name, value in sums.items()} for site, sums in statistics.moments.items()
    }
    return replace(statistics, moments=moments)


@pytest.mark.parametrize("method", [pytest.param("best", marks=pytest.mark.slow), "slimdiff", "obs"])
def test_no_size_hangs_on_rounding(method: Method) -> None:
    program, plain = observed("unet_sd15")
    sites = find_sites(program)
    planners = [(each, planner_for(program, sites, each, method)) for each in (plain, rounded_otherwise(plain, 2))]
    for fraction in (1.0, 0.999, 0.9):
        one, other = (
            analyze(program, sites, each, KeepParams(fraction), method=method, planner=planner)
            for each, planner in planners
        )
        assert one.sites == other.sites


def test_what_the_samples_did_not_see_is_not_free() -> None:
    """A cross-attention whose sampled text has fewer tokens than a head has channels: its own error is nothing, and the
    prediction moves all the same, by text that was not sampled."""
    program, statistics = observed("unet_sd15")
    sites = find_sites(program)
    site = next(site for site in sites if site.name.startswith("mid_block") and site.name.endswith("attn2"))
    errors = SiteErrors(program, sites, statistics, RECIPES["best"], "lstsq")
    curve, expected = errors.curve(site), errors.predict(site)
    for at in (1, 2, 3):
        entry = curve.entry(curve.choices[at])
        cut = errors.compensate(site, entry)
        assert cut.error < 1e-6 * curve.energy
        seen = errors.prober.relative_mse([(site, entry, cut.updates)])
        assert seen < 2e-6  # without what was not seen it would be 8e-6, as at a quarter of the width
        assert seen / 3 < expected[at] < 3 * seen


def test_the_whole_prediction_is_as_expected_on_the_calibration_set() -> None:
    """All inputs are probes here: what the plan expects is what the slim program does."""
    program, sites = toy()
    watched = instrument(program, sites, moments=True)
    batches = [((samples(2, seed), torch.tensor(37 * seed)), {}) for seed in range(5)]
    statistics = calibrate(watched, batches)
    plan = analyze(program, sites, statistics, KeepParams(0.8))
    slim = rewrite(program, plan)
    lost = energy = 0.0
    with torch.no_grad():
        for args, _ in batches:
            dense = program(*args)
            lost += float((slim(*args) - dense).square().sum())
            energy += float(dense.square().sum())
    assert plan.predicted["relative_mse"] == pytest.approx(lost / energy, rel=1e-9)


def test_a_site_error_is_exact_on_what_was_sampled() -> None:
    program, statistics = observed("unet_sd15")
    plan = analyze(program, find_sites(program), statistics, KeepParams(0.85))
    parameters = dict(program.graph_module.named_parameters())
    site = next(site for site in find_sites(program) if site.kind == "feed_forward")
    sums, entry = statistics.moments[site.name], plan.sites[site.name]
    weight, bias = (parameters[f"{site.tap}.{name}"].detach() for name in ("weight", "bias"))
    lost = weight.clone()
    lost[:, entry.mask()] -= plan.updates[f"{site.tap}.weight"]
    shift = bias - plan.updates[f"{site.tap}.bias"]
    count = float(sums["count"])
    second, mean = sums["second"] / count, sums["first"] / count
    exact = torch.trace(lost @ second @ lost.T) + 2 * shift @ (lost @ mean) + shift @ shift
    assert plan.predicted["sites"][site.name]["site_error"] == pytest.approx(float(exact), rel=1e-6)


def test_progress_counts_every_site_once() -> None:
    program, statistics = observed("unet_sd15")
    sites, seen = find_sites(program), []
    analyze(program, sites, statistics, KeepParams(0.9), on_site=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(sites)) for number in range(1, len(sites) + 1)]
