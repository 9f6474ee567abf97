"""What planning refuses: what contradicts itself, statistics of another model, scores that rank nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.analyze import thresholds
from passes.analyze.methods import analyze, choose_method
from passes.analyze.thresholds import allocate
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.errors import CalibrationError, PlanError, UsageError
from passes.plan.policies import KeepMacs, KeepParams, MaxError, Policy, Threshold
from passes.solve.recipes import RECIPES
from tests.observed_block import observed_block
from tests.toy_block import samples, toy


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("how", ["other weights", "other structure", "fewer sites"])
def test_statistics_of_another_model_make_no_plan(method: str, how: str) -> None:
    program, sites, statistics = observed_block()
    marks = statistics.fingerprint
    if how == "other weights":
        marks = {**marks, "weights": {name: [each + 1 for each in given] for name, given in marks["weights"].items()}}
    elif how == "other structure":
        marks = {**marks, "structure": "0" * 64}
    asked = sites[:1] if how == "fewer sites" else sites
    policy: Policy = Threshold(0.3) if method == "threshold" else KeepParams(0.9)
    with pytest.raises(PlanError, match="not of this model"):
        analyze(program, asked, replace(statistics, fingerprint=marks), policy, method=method)
    if method == "threshold":
        with pytest.raises(PlanError, match="not of this model"):
            thresholds.analyze(program, asked, replace(statistics, fingerprint=marks), policy)


@pytest.mark.parametrize("kind", ["attention", "feed_forward"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_scores_that_rank_nothing_are_refused_by_who_allocates(kind: str, bad: float) -> None:
    program, sites, statistics = observed_block()
    scores = {site.name: torch.linspace(0.1, 1, site.units) for site in sites}
    site = next(site for site in sites if site.kind == kind)
    scores[site.name][-1] = bad
    with pytest.raises(CalibrationError, match=site.name):
        allocate(program, sites, scores, Threshold(0.3))
    with pytest.raises(CalibrationError, match=site.name):
        analyze(program, sites, statistics, Threshold(0.3), lambda each, _: scores[each.name], method="threshold")
    scores[site.name] = torch.ones(site.units + 1)
    with pytest.raises(CalibrationError, match=site.name):
        allocate(program, sites, scores, KeepParams(0.9))
    del scores[site.name]
    with pytest.raises(CalibrationError, match="has no scores"):
        allocate(program, sites, scores, KeepParams(0.9))


@pytest.mark.parametrize(
    ("method", "policy", "criterion", "how", "message"),
    [
        ("better", None, None, None, "unknown method 'better'; there are best"),
        ("best", Threshold(0.1), None, None, 'is for `method="threshold"`'),
        ("obs", KeepParams(0.5), "entropy", None, 'is for `method="threshold"`'),
        ("slimdiff", KeepParams(0.5), None, "bias", 'is for `method="threshold"`'),
        ("obs", None, None, None, "say how much"),
        ("obs", MaxError(0.1), None, None, "predicts nothing"),
        ("threshold", MaxError(0.1), None, None, "predicts nothing"),
    ],
)
def test_what_contradicts_itself_is_refused(
    method: str, policy: Policy | None, criterion: str | None, how: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_method(method, policy, criterion, how)


def test_the_method_follows_from_what_is_given() -> None:
    assert choose_method(None, None) == "best"
    assert choose_method(None, KeepParams(0.9)) == "best"
    assert choose_method(None, Threshold(0.1)) == choose_method(None, None, "entropy") == "threshold"
    assert choose_method(None, KeepMacs(0.9), None, "lstsq") == "threshold"


def test_methods_need_second_moments_and_say_so() -> None:
    program, sites = toy()
    bare = calibrate(instrument(program, sites), [((samples(2), torch.tensor(5)), {})])
    with pytest.raises(UsageError, match="has no second moments"):
        analyze(program, sites, bare, KeepParams(0.9))
    assert not analyze(program, sites, bare, Threshold(0.5)).updates
