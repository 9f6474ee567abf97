from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from passes.errors import PlanError
from passes.plan.fingerprint import check_fingerprint, check_parameters, fingerprint, fingerprint_parameters
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site, Slice
from tests.hand_modules import Attention, FeedForward, captured
from tests.sites import linear_site


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


SITES = (
    linear_site("a", "attention", 3, 2, ("a.q", "a.k", "a.v"), "a.out"),
    linear_site("f", "feed_forward", 5, 1, (("f.up", (0, 5)),), "f.down"),
)
SHAPES = {
    **{f"a.{name}.weight": (6, 4) for name in "qkv"},
    "a.out.weight": (4, 6),
    "a.out.bias": (4,),
    "f.up.weight": (10, 4),
    "f.down.weight": (4, 5),
    "other.weight": (4, 6),
}
PARAMETERS = {
    name: torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) + 100 * number
    for number, (name, shape) in enumerate(SHAPES.items())
}


def _hand_plan() -> SlimPlan:
    entries = {site.name: SitePlan(site.kind, site.units, tuple(range(site.units))) for site in SITES}
    return SlimPlan(fingerprint_parameters(PARAMETERS, SITES), entries)


@pytest.mark.parametrize(
    "changed",
    [
        linear_site("a", "attention", 3, 2, ("a.q", "a.k", "a.v"), "other"),
        linear_site("a", "attention", 3, 3, ("a.q", "a.k", "a.v"), "a.out"),
        linear_site("a", "attention", 3, 2, ("a.q", "a.v", "a.k"), "a.out"),
        linear_site("a", "attention", 3, 2, ("a.q", "a.k", ("a.v", (1,))), "a.out"),
        linear_site("a", "attention", 3, 2, ("a.q", "a.k"), "a.out"),
        replace(SITES[0], slices=(*SITES[0].slices, Slice("other", "channels", 0, 2))),
        replace(SITES[0], slices=(*SITES[0].slices[:-1], Slice("a.out", "in", 1, 2))),
    ],
    ids=["reader", "width", "order", "offset", "fewer", "more", "a start"],
)
def test_each_fact_of_a_site_is_in_the_structure(changed: Site) -> None:
    other = (changed, SITES[1])
    structures = {fingerprint_parameters(PARAMETERS, sites)["structure"] for sites in (SITES, other)}
    assert len(structures) == 2
    with pytest.raises(PlanError, match="another structure"):
        check_parameters(_hand_plan(), PARAMETERS, other)


def test_weights_of_any_shape_are_sampled() -> None:
    slices = (*SITES[1].slices, Slice("norm", "channels"), Slice("bare", "channels"), Slice("conv", "out"))
    more = {"norm.weight": torch.arange(5.0), "conv.weight": torch.arange(90.0).reshape(5, 2, 3, 3)}
    site = replace(SITES[1], slices=slices)
    found = fingerprint_parameters({**PARAMETERS, **more}, (site,))["weights"]["f"]
    assert len(found) == 4 * 4
    assert set(found[4:8]) <= {*range(5)}
    assert set(found[8:12]) <= {*range(90)}
    assert len(set(found[8:12])) == 4


def test_what_was_saved_before_sites_had_slices_is_still_known() -> None:
    geometry = [
        ["a", "attention", 3, 2, [["a.q", [0]], ["a.k", [0]], ["a.v", [0]]], "a.out"],
        ["f", "feed_forward", 5, 1, [["f.up", [0, 5]]], "f.down"],
    ]
    shapes = sorted([name, list(shape)] for name, shape in SHAPES.items())
    text = json.dumps([geometry, shapes], separators=(",", ":"))
    found = fingerprint_parameters(PARAMETERS, SITES[::-1])["structure"]
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_units_kind_and_name_are_in_the_structure_too() -> None:
    others = [replace(SITES[1], units=4), replace(SITES[1], kind="attention"), replace(SITES[1], name="g")]
    assert len({fingerprint_parameters(PARAMETERS, (SITES[0], each))["structure"] for each in (SITES[1], *others)}) == 4


@pytest.mark.parametrize(
    ("name", "shape"),
    [("other.weight", (6, 4)), ("other.weight", (24,)), ("a.out.bias", (5,)), ("f.up.weight", (10, 5))],
)
def test_each_shape_is_in_the_structure(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="another structure"):
        check_parameters(_hand_plan(), {**PARAMETERS, name: torch.zeros(shape, dtype=torch.float64)}, SITES)


def test_each_name_is_in_the_structure() -> None:
    renamed = {name.replace("other", "another"): value for name, value in PARAMETERS.items()}
    with pytest.raises(PlanError, match="another structure"):
        check_parameters(_hand_plan(), renamed, SITES)


@pytest.mark.parametrize("path", ["a.q", "a.k", "a.v", "a.out", "f.up", "f.down"])
def test_each_linear_of_a_site_is_sampled(path: str) -> None:
    name = f"{path}.weight"
    check_parameters(_hand_plan(), PARAMETERS, SITES)
    with pytest.raises(PlanError, match=f"other weights: site '{path[0]}'"):
        check_parameters(_hand_plan(), {**PARAMETERS, name: PARAMETERS[name] * 1.05 + 1}, SITES)


def test_the_samples_by_hand() -> None:
    # Of 6 x 4 = 24 weights, quarters of 6: at 0, 6 + 7919 % 6, 12 + 15838 % 6, 18 + 23757 % 6.
    weights = fingerprint_parameters(PARAMETERS, SITES)["weights"]
    assert weights["a"][:8] == [0, 11, 16, 21, 100, 111, 116, 121]
    assert weights["a"][12:] == [300, 311, 316, 321]
    # Of 4 x 5 = 20, quarters of 5: at 0, 5 + 7919 % 5, 10 + 15838 % 5, 15 + 23757 % 5.
    assert weights["f"][4:] == [600, 609, 613, 617]
    assert len(weights["a"]) == 16
    assert len(weights["f"]) == 8


@pytest.mark.parametrize("position", [0, 5, 15])
def test_each_sample_is_compared(position: int) -> None:
    plan = _hand_plan()
    values = list(plan.fingerprint["weights"]["a"])
    values[position] += 3 + 0.02 * values[position]
    moved = {**plan.fingerprint, "weights": {**plan.fingerprint["weights"], "a": values}}
    with pytest.raises(PlanError, match="other weights: site 'a'"):
        check_parameters(replace(plan, fingerprint=moved), PARAMETERS, SITES)
