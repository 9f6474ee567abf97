"""That rewriting asks: each check's refusal comes through `rewrite`, `mask` and `validate`, not only from the check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from passes.errors import CouplingError, PlanError, SlimDiffError, ValidationError, VerificationError
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove import coupling
from passes.prove.coupling import check_coupling
from passes.prove.masking import mask
from passes.prove.validate import validate
from passes.rewrite import rewrite as rewriting
from passes.rewrite.constants import mend_constants
from passes.rewrite.rewrite import rewrite
from passes.rewrite.slicing import slim_site
from passes.sites.site import Site
from passes.sites.site_nodes import Constant
from tests.plans import plan_of, updated_plan
from tests.sites import linear_site
from tests.toy_block import ATTENTION, FEED_FORWARD, samples, site_of, toy

HEADS, NEURONS = (0, 2), (1, 2, 5, 9)


@pytest.fixture(scope="module")
def program() -> Program:
    return toy()[0]


def site(kind: str) -> Site:
    return site_of(toy()[1], kind)


@pytest.fixture(scope="module")
def plan(program: Program) -> SlimPlan:
    return plan_of(program, {site(ATTENTION).name: HEADS, site(FEED_FORWARD).name: NEURONS})


def test_each_site_that_is_cut_is_checked_with_what_is_cut(
    program: Program, plan: SlimPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, tuple[list[bool], int | None]] = {}

    def note(slim: Program, site: Site, kept: Tensor, nodes: Any = None, *, width: int | None = None) -> None:
        assert slim.module(site.tap).in_features == site.width  # before anything is cut
        asked[site.name] = kept.tolist(), width
        check_coupling(slim, site, kept, nodes, width=width)

    monkeypatch.setattr(rewriting, "check_coupling", note)
    rewrite(program, plan)
    neurons = [unit in NEURONS for unit in range(10)]
    assert asked == {site(ATTENTION).name: ([True, False, True], None), site(FEED_FORWARD).name: (neurons, None)}
    asked.clear()
    rewrite(program, plan_of(program, {site(FEED_FORWARD).name: NEURONS}))
    assert asked == {site(FEED_FORWARD).name: (neurons, None)}
    asked.clear()
    narrowed = next(each for seed in range(9) if _narrow(each := updated_plan(program, seed)))
    entry = narrowed.sites[site(ATTENTION).name]
    rewrite(program, narrowed)
    assert asked[site(ATTENTION).name] == (entry.mask().tolist(), entry.width)


def _narrow(plan: SlimPlan) -> bool:
    return plan.sites[site(ATTENTION).name].width in (1, 2, 3)


@pytest.mark.parametrize("kind", [ATTENTION, FEED_FORWARD])
def test_what_reaches_further_is_not_rewritten(kind: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = coupling._reach

    def further(program: Program, site: Site, *arguments: Any) -> coupling.Reach:
        found = plain(program, site, *arguments)
        return {**found, ("embed", "out"): {1}} if site.kind == kind else found

    monkeypatch.setattr(coupling, "_reach", further)
    kept = {site(ATTENTION).name: HEADS} if kind == ATTENTION else {site(FEED_FORWARD).name: NEURONS}
    with pytest.raises(CouplingError, match=rf"{site(kind).name}.*also change 'embed'"):
        rewrite(program, plan_of(program, kept))


def test_shapes_that_were_not_refreshed_are_not_handed_out(
    program: Program, plan: SlimPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "refresh_shapes", lambda *_: None)
    with pytest.raises(VerificationError):
        rewrite(program, plan)


def test_a_number_that_was_not_mended_is_not_handed_out(
    program: Program, plan: SlimPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "mend_constants", lambda *_: None)
    with pytest.raises(SlimDiffError):
        rewrite(program, plan)


def _other_weights(plan: SlimPlan) -> SlimPlan:
    weights = {name: [2 * value + 1 for value in values] for name, values in plan.fingerprint["weights"].items()}
    return replace(plan, fingerprint={**plan.fingerprint, "weights": weights})


def _other_structure(plan: SlimPlan) -> SlimPlan:
    return replace(plan, fingerprint={**plan.fingerprint, "structure": "0" * 64})


def _stranger(plan: SlimPlan) -> SlimPlan:
    return replace(plan, updates={"embed.weight": torch.zeros(12, 1)})


def _misshapen(plan: SlimPlan) -> SlimPlan:
    return replace(plan, updates={f"{site(FEED_FORWARD).tap}.weight": torch.zeros(12, 5)})


def _not_finite(plan: SlimPlan) -> SlimPlan:
    new = torch.zeros(12, 4)
    new[11, 3] = torch.nan
    return replace(plan, updates={f"{site(FEED_FORWARD).tap}.weight": new})


def _whole_numbers(plan: SlimPlan) -> SlimPlan:
    return replace(plan, updates={f"{site(FEED_FORWARD).tap}.weight": torch.zeros(12, 4, dtype=torch.int64)})


def _narrow_without_weights(plan: SlimPlan) -> SlimPlan:
    return replace(plan, sites={**plan.sites, site(ATTENTION).name: SitePlan("attention", 3, HEADS, 2)})


def _wider(plan: SlimPlan) -> SlimPlan:
    return replace(plan, sites={**plan.sites, site(ATTENTION).name: SitePlan("attention", 3, HEADS, 5)})


REFUSED: dict[str, tuple[Callable[[SlimPlan], SlimPlan], str]] = {
    "other weights": (_other_weights, "other weights"),
    "other structure": (_other_structure, "another structure"),
    "an update of nothing": (_stranger, "belongs to no site"),
    "an update of another shape": (_misshapen, "belongs; plan anew"),
    "an update that is not finite": (_not_finite, "not finite"),
    "an update in whole numbers": (_whole_numbers, "int64"),
    "narrow heads without weights": (_narrow_without_weights, "need new weights"),
    "wider heads": (_wider, "can't become 5"),
}


def _validate(program: Program, plan: SlimPlan) -> object:
    return validate(program, plan, program, inputs=[(program.args, program.kwargs)])


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("takes", [rewrite, mask, _validate], ids=["rewrite", "mask", "validate"])
def test_a_plan_that_does_not_fit_is_refused_by_each_that_takes_one(
    what: str, takes: Callable[[Program, SlimPlan], object], program: Program, plan: SlimPlan
) -> None:
    change, words = REFUSED[what]
    broken = change(plan)
    with pytest.raises(PlanError, match=words):
        takes(program, broken)


def test_a_slim_site_says_what_is_left_where() -> None:
    # units of 3 channels; the second producer holds value rows 4...15 behind 4 rows of something else, and the third
    # two blocks of the site's rows.
    dense = linear_site("s", "attention", 4, 3, ("q", ("v", (4,)), ("kv", (0, 12))), "out")
    slim = slim_site(dense, torch.tensor([True, False, True, True]))
    assert (slim.units, slim.unit_width) == (3, 3)
    assert [each.start for each in slim.writers] == [0, 4, 0, 9]
    narrow = slim_site(dense, torch.tensor([False, False, True, True]), 2)
    assert (narrow.units, narrow.unit_width) == (2, 2)
    assert [each.start for each in narrow.writers] == [0, 4, 0, 4]


def test_only_the_number_that_was_meant_is_mended(program: Program) -> None:
    graph = torch.fx.Graph()
    node = graph.call_function(torch.ops.aten.view.default, (graph.placeholder("x"), [4, 4, 8, 8]))
    dense, slim = (linear_site("s", "attention", units, width, ("q",), "out") for units, width in ((4, 8), (3, 5)))
    mend_constants(dense, slim, [Constant(node, (1, 1)), Constant(node, (1, 3), counts_units=False, counts_width=True)])
    assert node.args[1] == [4, 3, 8, 5]


class _Off:
    """A program that is off by a known share."""

    def __init__(self, program: Program, factors: dict[int, float]) -> None:
        self.program, self.factors = program, factors

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.program(sample, timestep) * (1 + self.factors[len(sample)])


# Written out: a table that is read from the code would move along with it.
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", LIMITS)
def test_twice_of_what_rounding_explains_is_refused(dtype: torch.dtype) -> None:
    program, _ = toy(dtype=torch.float64)
    whole = plan_of(program)

    class Cast(_Off):
        def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
            # bf16 holds 1 + 2**-6 and 1 + 2**-4 exactly; the others are close enough
            return super().__call__(sample, timestep).to(dtype)

    inputs = [((samples(2), torch.tensor(5)), {})]
    reference = Cast(program, {2: 0.0})
    for factor, refused in ((2.0, True), (0.5, False)):
        off: Any = Cast(program, {2: factor * LIMITS[dtype]})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("passes.prove.validate.mask", lambda *_: reference)
            if refused:
                with pytest.raises(ValidationError, match="differs from the masked dense one"):
                    validate(program, whole, off, inputs)
            else:
                report = validate(program, whole, off, inputs)
                assert report.tolerance == LIMITS[dtype]
                assert report.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("worst", [1, 2, 3])
def test_the_worst_input_decides_wherever_it_stands(worst: int, program: Program) -> None:
    inputs = [((samples(size), torch.tensor(5)), {}) for size in (1, 2, 3)]
    shares = {size: 1e-4 if size == worst else size * 1e-7 for size in (1, 2, 3)}
    off: Any = _Off(program, shares)
    report = validate(program, plan_of(program), off, inputs, tolerance=1e-3)
    assert report.relative_error == pytest.approx(1e-4, rel=1e-6)
    assert report.errors == pytest.approx(tuple(shares[size] for size in (1, 2, 3)), rel=1e-6)
    with pytest.raises(ValidationError, match=rf"by 1\.00e-04 on \[{worst}, 16, 12\]"):
        validate(program, plan_of(program), off, inputs)
