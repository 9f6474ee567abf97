"""What planning refuses, through who plans: statistics of another model, scores that rank nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.analyze import thresholds
from passes.analyze.methods import analyze
from passes.analyze.thresholds import allocate
from passes.errors import CalibrationError, PlanError
from passes.plan.policies import KeepParams, Policy, Threshold
from passes.solve.recipes import RECIPES
from tests.observed_block import observed_block


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
