"""Removing is multiplying by zero, for any plan on any family: 105 random cases, each held to several identities."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from passes.plan.costs import program_macs, program_params, unit_macs, unit_params
from passes.plan.slim_plan import SlimPlan
from passes.program.fresh_inputs import fresh_inputs
from passes.program.program import Program
from passes.prove.masking import mask
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.sites.site import Site
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from tests.families import TRANSFORMERS_FIRST
from tests.plans import captured, plan_of
from tests.toy_denoisers import FAMILIES

TOLERANCE = 1e-12  # fp64: both sides add the same numbers, in another order
MODEL_SEEDS = st.integers(0, 1)  # each model is captured once

# Examples are fixed, so that a red test is red twice.
_COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def draw_plan(data: st.DataObject, program: Program) -> SlimPlan:
    """Draw any part of any site, down to a single unit."""
    kept: dict[str, tuple[int, ...]] = {}
    for site in find_sites(program):
        share = data.draw(st.sampled_from(["all", "one", "half", "most"]), label=site.name)
        count = {"all": site.units, "one": 1, "half": (site.units + 1) // 2, "most": max(1, site.units - 1)}[share]
        order = data.draw(st.randoms(use_true_random=False)).sample(range(site.units), count)
        kept[site.name] = tuple(sorted(order))
    return plan_of(program, kept)


def _run(program: Program, args: object, kwargs: object) -> Tensor:
    with torch.no_grad():
        return program(*args, **kwargs)  # type: ignore[misc]


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= TOLERANCE * expected.norm())


def _sites(program: Program) -> dict[str, Site]:
    return {site.name: site for site in find_sites(program)}


@TRANSFORMERS_FIRST
@settings(max_examples=10, **_COMMON)
@given(seed=MODEL_SEEDS, data=st.data())
def test_masked_equals_slim(family: str, seed: int, data: st.DataObject) -> None:
    program = captured(family, seed)
    plan = draw_plan(data, program)
    code = program.graph_module.code
    pointers = {name: parameter.data_ptr() for name, parameter in program.graph_module.named_parameters()}
    sums = {name: parameter.double().sum().item() for name, parameter in program.graph_module.named_parameters()}

    slim = rewrite(program, plan)
    report = validate(program, plan, slim)
    assert report.tolerance == TOLERANCE  # and it didn't raise

    # The input is as it was.
    assert program.graph_module.code == code
    for name, parameter in program.graph_module.named_parameters():
        assert parameter.data_ptr() == pointers[name]
        assert parameter.double().sum().item() == sums[name]
    # What goes is what the costs said would go.
    sites = _sites(program)
    gone = {name: site.units - len(plan.sites[name].kept) for name, site in sites.items()}
    assert program_params(slim) == program_params(program) - sum(
        unit_params(program, sites[name]) * count for name, count in gone.items()
    )
    assert program_macs(slim) == program_macs(program) - sum(
        unit_macs(program, sites[name]) * count for name, count in gone.items()
    )


@TRANSFORMERS_FIRST
@settings(max_examples=4, **_COMMON)
@given(seed=MODEL_SEEDS, data=st.data())
def test_slim_equals_weights_cut_by_hand(family: str, seed: int, data: st.DataObject) -> None:
    program = captured(family, seed)
    plan = draw_plan(data, program)
    # A plan survives being written down: what is read back is what is carried out.
    slim = rewrite(program, SlimPlan.from_json(plan.to_json()))
    model = FAMILIES[family](seed, torch.float64)
    for args, kwargs in fresh_inputs(program, seed=1):
        expected = _run(slim, args, kwargs)
        with torch.no_grad():
            assert _close(describe(apply_plan(model, plan)).module(*args, **kwargs), expected)
    _same_weights(model, slim, _sites(program), plan)


def _same_weights(model: nn.Module, slim: Program, sites: dict[str, Site], plan: SlimPlan) -> None:
    """Cut with plain lists, sharing no code with the rewrite, and compare every parameter."""
    expected = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, site in sites.items():
        units, width = plan.sites[name].kept, site.unit_width
        columns = [unit * width + channel for unit in units for channel in range(width)]
        for path in {each.path for each in site.writers}:
            rows = [each.start + column for each in site.writers if each.path == path for column in columns]
            for part in ("weight", "bias"):
                if f"{path}.{part}" in expected:
                    expected[f"{path}.{part}"] = expected[f"{path}.{part}"][rows]
        expected[f"{site.tap}.weight"] = expected[f"{site.tap}.weight"][:, columns]
    found = dict(slim.graph_module.named_parameters())
    assert found.keys() <= expected.keys()
    for name, parameter in found.items():
        assert torch.equal(parameter, expected[name]), name


@TRANSFORMERS_FIRST
def test_keeping_everything_is_the_identity(family: str) -> None:
    program = captured(family)
    everything = plan_of(program)
    args, kwargs = fresh_inputs(program, seed=9)[0]
    dense = _run(program, args, kwargs)
    for same in (rewrite(program, everything), mask(program, everything)):
        assert same.graph_module.code == program.graph_module.code
        assert torch.equal(_run(same, args, kwargs), dense)
