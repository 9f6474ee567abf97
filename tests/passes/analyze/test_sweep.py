"""What other sizes would keep: counted as the rewritten program has it."""

from __future__ import annotations

from dataclasses import replace

import torch

from passes.analyze.planner import Planner
from passes.analyze.sweep import sweep_budgets, sweep_thresholds
from passes.plan.costs import program_macs, program_params
from passes.rewrite.rewrite import rewrite
from passes.solve.recipes import Recipe
from tests.observed_block import observed_block
from tests.plans import plan_of


def test_thresholds_are_counted_as_the_rewritten_program_is() -> None:
    program, sites, _ = observed_block()
    scores = {
        site.name: torch.linspace(0.05, 1, site.units) ** (2 if site.kind == "attention" else 1) for site in sites
    }
    taus = (0.0, 0.3, 0.6)
    points = sweep_thresholds(program, sites, scores, taus=taus)
    assert tuple(point.at for point in points) == taus
    for point in points:
        assert point.error is None
        slim = rewrite(program, replace(plan_of(program), sites=point.entries))
        assert (point.params, point.macs) == (program_params(slim), program_macs(slim))
        assert point.params != point.macs
    assert points[0].params > points[1].params > points[2].params


def test_budgets_go_from_the_largest_to_the_last_that_can_be_met() -> None:
    program, sites, statistics = observed_block()
    planner = Planner(program, sites, statistics, Recipe(heads="remove"))
    points = sweep_budgets(program, sites, planner, shares=(0.0, 0.2, 0.5, 0.999, 1.0))
    assert len(points) == 3
    total = program_params(program)
    for point, share in zip(points, (0.0, 0.2, 0.5), strict=True):
        slim = rewrite(program, replace(plan_of(program), sites=point.entries))
        assert (point.params, point.macs) == (program_params(slim), program_macs(slim))
        assert point.params <= point.at * total + 1
        assert point.at >= 1 - share
    assert [point.error is not None for point in points] == [True] * 3
    assert points[0].error == 0
    assert points[1].error < points[2].error
