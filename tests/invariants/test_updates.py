"""New weights and narrower heads: the slim program, the padded dense one and the eager model are one function."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.plan.costs import entry_cost, program_macs, program_params, site_macs, site_params
from passes.plan.slim_plan import SlimPlan
from passes.program.fresh_inputs import fresh_inputs
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from tests.families import EVERY_FAMILY
from tests.plans import captured, updated_plan
from tests.toy_denoisers import FAMILIES


@EVERY_FAMILY
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1000))
def test_slim_equals_the_padded_dense_program_and_the_eager_model(family: str, seed: int) -> None:
    program = captured(family)
    plan = updated_plan(program, seed)
    plan = SlimPlan.from_json(plan.to_json(), plan.tensors())
    slim = rewrite(program, plan)
    assert validate(program, plan, slim).relative_error <= 1e-12
    model = apply_plan(FAMILIES[family](0, torch.float64), plan)
    args, kwargs = fresh_inputs(program, seed=1)[0]
    with torch.no_grad():
        expected = slim(*args, **kwargs)
        found = describe(model).module(*args, **kwargs)
    assert (found - expected).norm() <= 1e-12 * expected.norm()
    sites = find_sites(program)
    for total, each in ((program_params, site_params), (program_macs, site_macs)):
        gone = [each(program, site) - entry_cost(each(program, site), site, plan.sites[site.name]) for site in sites]
        assert total(slim) == total(program) - sum(gone)
