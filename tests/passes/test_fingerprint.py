from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from passes.errors import PlanError
from passes.fingerprint import check_fingerprint, check_parameters, fingerprint, fingerprint_parameters
from passes.plan import SitePlan, SlimPlan
from passes.program import Program
from passes.sites import find_sites
from tests.hand_modules import Attention, FeedForward, captured


class Block(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.attention, self.feed_forward = Attention(), FeedForward(way="geglu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)  # type: ignore[no-any-return]


def _plan(program: Program) -> SlimPlan:
    sites = find_sites(program)
    assert len(sites) == 2
    entries = {site.name: SitePlan(site.kind, site.units, tuple(range(site.units))) for site in sites}
    return SlimPlan(fingerprint(program, sites), entries)


def test_a_plan_fits_its_own_model_after_json() -> None:
    program = captured(Block())
    plan = SlimPlan.from_json(_plan(program).to_json())
    check_fingerprint(plan, program, find_sites(program))
    assert json.loads(json.dumps(plan.fingerprint)) == plan.fingerprint


def test_eager_parameters_give_the_same_fingerprint() -> None:
    block = Block()
    program = captured(block)
    sites = find_sites(program)
    own = {name: value for name, value in block.named_parameters() if name in program.graph_module.state_dict()}
    assert fingerprint_parameters(own, sites) == fingerprint(program, sites)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_is_still_the_same_model(dtype: torch.dtype) -> None:
    program = captured(Block())
    plan, sites = _plan(program), find_sites(program)
    cast = {name: value.to(dtype) for name, value in program.graph_module.named_parameters()}
    check_parameters(plan, cast, sites)
    own = _plan(program)
    half = SlimPlan(fingerprint_parameters(cast, sites), own.sites)
    check_fingerprint(half, program, sites)  # and the other way round


def test_other_weights_are_refused_by_site() -> None:
    plan = _plan(captured(Block()))
    other = captured(Block(seed=1))
    with pytest.raises(PlanError, match="other weights: site 'attention'"):
        check_fingerprint(plan, other, find_sites(other))


def test_weights_two_percent_off_are_refused() -> None:
    program = captured(Block())
    plan, sites = _plan(program), find_sites(program)
    moved = {name: value.detach() * 1.02 for name, value in program.graph_module.named_parameters()}
    with pytest.raises(PlanError, match="other weights"):
        check_parameters(plan, moved, sites)


def test_another_structure_is_refused() -> None:
    program = captured(Block())
    plan, sites = _plan(program), find_sites(program)
    parameters = dict(program.graph_module.named_parameters())
    parameters["extra"] = nn.Parameter(torch.zeros(1))
    with pytest.raises(PlanError, match="another structure"):
        check_parameters(plan, parameters, sites)


def test_sites_that_do_not_match_are_refused() -> None:
    program = captured(Block())
    plan, sites = _plan(program), find_sites(program)
    with pytest.raises(PlanError, match="does not have"):
        check_fingerprint(plan, program, sites[:1])
    with pytest.raises(PlanError, match="says nothing about"):
        check_fingerprint(replace(plan, sites=dict(list(plan.sites.items())[:1])), program, sites)
    fewer = {name: SitePlan(entry.kind, entry.units - 1, (0,)) for name, entry in plan.sites.items()}
    with pytest.raises(PlanError, match="slimmed already"):
        check_fingerprint(replace(plan, sites=fewer), program, sites)


@pytest.mark.parametrize("weights", [None, {}, {"attention": [1.0], "feed_forward": [1.0]}, {"attention": "x"}])
def test_garbled_fingerprints_are_refused(weights: object) -> None:
    program = captured(Block())
    plan, sites = _plan(program), find_sites(program)
    garbled = replace(plan, fingerprint={**plan.fingerprint, "weights": weights})
    with pytest.raises(PlanError):
        check_fingerprint(garbled, program, sites)
