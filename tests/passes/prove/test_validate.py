"""The oracle comparison catches what a wrong rewrite does, and says what it ran on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from passes.errors import PlanError, UsageError, ValidationError
from passes.plan.slim_plan import SlimPlan
from passes.program.fresh_inputs import fresh_inputs
from passes.program.program import Program
from passes.prove.masking import mask
from passes.prove.validate import TOLERANCES, relative_error, validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from tests.families import of_families
from tests.plans import captured, plan_of, random_plan

FAMILY = "unet_sd15"


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(FAMILY)


@pytest.fixture(scope="module")
def plan(program: Program) -> SlimPlan:
    return random_plan(program, seed=11, touched=1.0)


@pytest.fixture(scope="module")
def slim(program: Program, plan: SlimPlan) -> Program:
    return rewrite(program, plan)


def test_right_rewrite_passes(program: Program, plan: SlimPlan, slim: Program) -> None:
    report = validate(program, plan, slim)
    assert report.relative_error == max(report.errors) <= 1e-12
    assert (report.tolerance, report.dtype) == (1e-12, "float64")
    assert len(report.inputs) == len(report.errors) == 2


def test_default_inputs_are_not_the_captured_ones(program: Program) -> None:
    traced = torch.utils._pytree.tree_leaves((program.args, dict(program.kwargs)))
    first, second = (torch.utils._pytree.tree_leaves(pair) for pair in fresh_inputs(program))
    for leaf, other, own in zip(first, second, traced, strict=True):
        assert leaf.shape[0] == 3
        assert other.shape[0] == 1
        assert leaf.shape[1:] != own.shape[1:] or leaf.dim() == 1
        assert leaf.dtype == other.dtype == own.dtype
    assert first[0].shape[2] != first[0].shape[3]
    assert first[0].std() > 0.5


@of_families(["unet_sdxl", "unet_unconditional", "pixart", "dit"])
def test_default_inputs_suit_every_family(family: str) -> None:
    program = captured(family)
    for args, kwargs in fresh_inputs(program):
        with torch.no_grad():
            assert torch.isfinite(program(*args, **kwargs)).all()


def test_swapped_rows_are_caught(program: Program, plan: SlimPlan, slim: Program) -> None:
    broken = slim.copy()
    site = next(s for s in find_sites(program) if s.kind == "feed_forward" and len(plan.sites[s.name].kept) > 1)
    linear = broken.module(site.writers[0].path)
    linear.weight = torch.nn.Parameter(linear.weight.detach().flip(0))
    with pytest.raises(ValidationError, match="differs from the masked dense one"):
        validate(program, plan, broken)


def test_another_units_weights_are_caught(program: Program, plan: SlimPlan) -> None:
    other = dict(plan.sites)
    name, entry = next((n, e) for n, e in other.items() if e.kind == "feed_forward" and 1 < len(e.kept) < e.units)
    gone = next(unit for unit in range(entry.units) if unit not in entry.kept)
    other[name] = replace(entry, kept=tuple(sorted((*entry.kept[1:], gone))))
    with pytest.raises(ValidationError):
        validate(program, plan, rewrite(program, replace(plan, sites=other)))


def test_one_changed_weight_is_caught(program: Program, plan: SlimPlan, slim: Program) -> None:
    broken = slim.copy()
    convolution = broken.module("conv_out")
    weight = convolution.weight.detach().clone()
    weight[0, 0, 0, 0] += 1e-6
    convolution.weight = torch.nn.Parameter(weight)
    with pytest.raises(ValidationError):
        validate(program, plan, broken)
    validate(program, plan, broken, tolerance=1e-2)


def test_masked_program_differs_from_dense(program: Program, plan: SlimPlan) -> None:
    with pytest.raises(ValidationError):
        validate(program, plan, program)  # nothing removed


def test_not_finite_is_an_error_and_not_a_number(program: Program, plan: SlimPlan, slim: Program) -> None:
    broken = slim.copy()
    convolution = broken.module("conv_out")
    convolution.bias = torch.nn.Parameter(torch.full_like(convolution.bias, math.nan))
    with pytest.raises(ValidationError, match="slim program's prediction is not finite"):
        validate(program, plan, broken)


def test_own_inputs(program: Program, plan: SlimPlan, slim: Program) -> None:
    report = validate(program, plan, slim, inputs=[(program.args, program.kwargs)])
    assert len(report.errors) == 1
    assert str(list(program.args[0].shape)) in report.inputs[0]
    with pytest.raises(ValidationError, match="nothing to validate on"):
        validate(program, plan, slim, inputs=[])
    narrow = (program.args[0][:, :3], *program.args[1:])
    with pytest.raises(UsageError, match="captured for"):
        validate(program, plan, slim, inputs=[(narrow, program.kwargs)])


def test_plan_of_another_model_is_refused(program: Program, slim: Program) -> None:
    with pytest.raises(PlanError):
        validate(program, plan_of(captured("dit")), slim)


def test_relative_error_by_hand() -> None:
    assert relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    with pytest.raises(ValidationError, match=r"\(3,\), not \(2,\)"):
        relative_error(torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tolerance_of_each_dtype(dtype: torch.dtype) -> None:
    program = captured("dit", dtype=dtype)
    plan = random_plan(program, seed=11, touched=1.0)
    report = validate(program, plan, rewrite(program, plan))
    assert report.relative_error <= report.tolerance == TOLERANCES[dtype]
    # Too few kept units would be noticed: the tolerance is far below what a removal does.
    with torch.no_grad():
        dense, masked = program(*program.args, **program.kwargs), mask(program, plan)(*program.args, **program.kwargs)
    assert relative_error(dense, masked) > 2 * report.tolerance
