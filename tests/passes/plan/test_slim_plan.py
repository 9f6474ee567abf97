"""The plan as data: what it refuses, and that it comes back from its text as it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from passes.errors import PlanError
from passes.plan.slim_plan import FORMAT, SitePlan, SlimPlan
from tests.sites import linear_site

HEADS = SitePlan("attention", 4, (0, 2), 3)
NEURONS = SitePlan("feed_forward", 5, (1, 2, 4))
UPDATES = {"block.out.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "block.out.bias": torch.tensor([0.5, -0.5])}
MAPS = {"block.q": torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)}
PLAN = SlimPlan(
    {"structure": "abc", "weights": {"block": [0.25]}},
    {"block": HEADS, "ff": NEURONS},
    {"method": "hand"},
    UPDATES,
    {"relative_mse": 0.125},
    MAPS,
)


def test_the_mask_is_true_where_units_stay() -> None:
    assert HEADS.mask().tolist() == [True, False, True, False]
    assert NEURONS.mask().tolist() == [False, True, True, False, True]
    assert NEURONS.mask().dtype == torch.bool
    assert NEURONS.width is None


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (SitePlan("attention", 4, ()), "keeps no unit"),
        (SitePlan("attention", 4, (2, 0)), "ascending"),
        (SitePlan("attention", 4, (0, 0)), "unique"),
        (SitePlan("attention", 4, (0, 4)), "below 4"),
        (SitePlan("attention", 4, (-1, 2)), "ascending"),
        (SitePlan("attention", 4, (0,), 0), "at least 1"),
        (SitePlan("feed_forward", 4, (0,), 1), "heads only"),
    ],
)
def test_impossible_sites_are_refused_by_name(site: SitePlan, reason: str) -> None:
    with pytest.raises(PlanError, match=rf"'the\.site'.*{reason}"):
        SlimPlan({}, {"fine": NEURONS, "the.site": site})


@pytest.mark.parametrize(
    "site",
    [
        SitePlan("attention", 4, (0, 3)),
        SitePlan("attention", 4, (0, 1, 2, 3), 1),
        SitePlan("feed_forward", 1, (0,)),
    ],
)
def test_the_ends_of_what_is_possible(site: SitePlan) -> None:
    assert SlimPlan({}, {"site": site}).sites["site"] == site


def test_the_text_says_everything() -> None:
    def digest(values: bytes) -> str:
        return hashlib.sha256(values).hexdigest()

    assert json.loads(PLAN.to_json()) == {
        "format": FORMAT,
        "fingerprint": {"structure": "abc", "weights": {"block": [0.25]}},
        "policy": {"method": "hand"},
        "predicted": {"relative_mse": 0.125},
        "sites": {
            "block": {"kind": "attention", "units": 4, "kept": [0, 2], "width": 3},
            "ff": {"kind": "feed_forward", "units": 5, "kept": [1, 2, 4]},
        },
        "updates": {
            "block.out.bias": digest(UPDATES["block.out.bias"].numpy().tobytes()),
            "block.out.weight": digest(UPDATES["block.out.weight"].numpy().tobytes()),
        },
        "adapter_maps": {"block.q": digest(MAPS["block.q"].numpy().tobytes())},
    }
    assert "adapter_maps" not in json.loads(replace(PLAN, adapter_maps={}).to_json())


def test_a_plan_comes_back_as_it_was() -> None:
    back = SlimPlan.from_json(PLAN.to_json(), PLAN.tensors())
    assert (back.fingerprint, back.sites, back.policy, back.predicted) == (
        PLAN.fingerprint,
        PLAN.sites,
        PLAN.policy,
        PLAN.predicted,
    )
    assert back.updates.keys() == UPDATES.keys()
    assert all(torch.equal(back.updates[name], UPDATES[name]) for name in UPDATES)
    assert back.adapter_maps.keys() == MAPS.keys()
    assert torch.equal(back.adapter_maps["block.q"], MAPS["block.q"])
    assert back.to_json() == PLAN.to_json()


FOUND = {
    "block": linear_site("block", "attention", 4, 5, ("block.q", "block.k", ("block.v", (20,))), "block.out"),
    "ff": linear_site("ff", "feed_forward", 5, 1, (("ff.up", (0, 5)),), "ff.down"),
}
PLACED = replace(PLAN, found=FOUND)


def test_where_sites_are_comes_back_too() -> None:
    assert json.loads(PLACED.to_json())["sites"]["ff"] == {
        **{"kind": "feed_forward", "units": 5, "kept": [1, 2, 4], "tap": "ff.down"},
        "slices": [["ff.up", "out", 0, 1], ["ff.up", "out", 5, 1], ["ff.down", "in", 0, 1]],
    }
    back = SlimPlan.from_json(PLACED.to_json(), PLACED.tensors())
    assert back.found == FOUND
    assert back.to_json() == PLACED.to_json()
    assert SlimPlan.from_json(PLAN.to_json(), PLAN.tensors()).found == {}


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ([["a", "out", 0, 1]], "none reads them at 'ff.down'"),
        ([["ff.down", "in", 0, 1]], "no slice writes"),
        ([["a", "out", 0, 1], ["a", "in", 0, 1]], "none reads them at 'ff.down'"),
        ([["a", "up", 0, 1]], "no slice of a module"),
        ([[1, "out", 0, 1]], "no slice of a module"),
        ([["a", "out", -1, 1]], "no slice of a module"),
        ([["a", "out", 0, 0]], "no slice of a module"),
        ([["a", "out", 0.0, 1]], "no slice of a module"),
        ([["a", "out", True, 1]], "no slice of a module"),
        ([["a", "out", 0]], "lacks or garbles"),
        (["a"], "lacks or garbles"),
        (7, "lacks or garbles"),
        (None, "lacks or garbles"),
    ],
)
def test_garbled_slices_are_refused(slices: Any, reason: str) -> None:
    data = json.loads(PLACED.to_json())
    data["sites"]["ff"]["slices"] = slices
    with pytest.raises(PlanError, match=reason):
        SlimPlan.from_json(json.dumps(data), PLACED.tensors())
    data = json.loads(PLACED.to_json())
    del data["sites"]["ff"]["tap"]
    with pytest.raises(PlanError, match="lacks or garbles 'tap'"):
        SlimPlan.from_json(json.dumps(data), PLACED.tensors())


def test_updates_and_maps_of_one_path_do_not_meet_in_the_file() -> None:
    both = replace(PLAN, updates={"block.q": torch.ones(1)}, adapter_maps={"block.q": torch.zeros(2)})
    assert len(both.tensors()) == 2
    back = SlimPlan.from_json(both.to_json(), both.tensors())
    assert (back.updates["block.q"].tolist(), back.adapter_maps["block.q"].tolist()) == ([1.0], [0.0, 0.0])


def _text(**changes: Any) -> str:
    return json.dumps({**json.loads(PLAN.to_json()), **changes})


def _with_site(**changes: Any) -> str:
    sites = json.loads(PLAN.to_json())["sites"]
    return _text(sites={**sites, "block": {**sites["block"], **changes}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no valid JSON"),
        ("[]", "'list' is not 2"),
        (_text(format=1), "format 1 is not 2"),
        (_with_site(kind="conv"), "unknown kind 'conv'"),
        (_with_site(units=4.0), "whole numbers"),
        (_with_site(kept=[0, 2.0]), "whole numbers"),
        (_with_site(kept=[0, True]), "whole numbers"),
        (_with_site(width=2.0), "width must be a whole number"),
        (_with_site(width=True), "width must be a whole number"),
        (_with_site(kept=[2, 0]), "ascending"),
        (_text(sites=[]), "lacks or garbles"),
        (_text(updates=None), "lacks or garbles"),
        (_text(updates={}), "names 1 updated weights"),
    ],
)
def test_garbled_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        SlimPlan.from_json(text, PLAN.tensors())


@pytest.mark.parametrize("name", ["fingerprint", "sites", "policy", "predicted", "updates"])
def test_a_text_without_a_part_is_refused(name: str) -> None:
    data = json.loads(PLAN.to_json())
    del data[name]
    with pytest.raises(PlanError, match=f"lacks or garbles '{name}'"):
        SlimPlan.from_json(json.dumps(data), PLAN.tensors())


def test_weights_that_are_not_the_named_ones_are_refused() -> None:
    for name, value in PLAN.tensors().items():
        changed = value.clone()
        changed.view(-1)[0] += 1
        with pytest.raises(PlanError, match="not they"):
            SlimPlan.from_json(PLAN.to_json(), {**PLAN.tensors(), name: changed})
        with pytest.raises(PlanError, match="not they"):
            SlimPlan.from_json(PLAN.to_json(), {key: kept for key, kept in PLAN.tensors().items() if key != name})
    with pytest.raises(PlanError, match="not they"):
        SlimPlan.from_json(PLAN.to_json(), {**PLAN.tensors(), "more": torch.ones(1)})
    with pytest.raises(PlanError, match="not they"):
        SlimPlan.from_json(PLAN.to_json())


def test_the_digest_is_of_the_values_whatever_their_layout_and_type() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    plan = replace(PLAN, updates={"w": values.T}, adapter_maps={})
    same = replace(PLAN, updates={"w": values.T.contiguous()}, adapter_maps={})
    assert plan.to_json() == same.to_json()
    for dtype in (torch.bfloat16, torch.float16):
        half = replace(PLAN, updates={"w": values.to(dtype)}, adapter_maps={})
        assert SlimPlan.from_json(half.to_json(), half.tensors()).updates["w"].dtype == dtype


def test_what_a_plan_has_unless_told() -> None:
    plan = SlimPlan({}, {"ff": NEURONS})
    assert (plan.policy, plan.updates, plan.predicted, plan.adapter_maps) == ({}, {}, {}, {})
    assert plan.tensors() == {}
