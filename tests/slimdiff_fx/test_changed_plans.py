"""Plans on disk: what was changed in either of the two files is refused by who loads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from passes.errors import CheckpointError, PlanError
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.files.plan_file import load_plan, plan_digest, save_plan, updates_file


def plan() -> SlimPlan:
    sites = {
        "a": SitePlan("attention", 4, (1, 2, 3), 5),
        "f": SitePlan("feed_forward", 6, (0, 5)),
    }
    updates = {"f.up.weight": torch.arange(6.0).reshape(2, 3), "f.up.bias": torch.tensor([1.0, -2.0]).half()}
    maps = {"a.q": torch.eye(3), "f.up": torch.ones(2, 2).bfloat16()}
    return SlimPlan({"structure": "x", "weights": {"a": [0.1]}}, sites, {"tau": 0.3}, updates, {"e": 1.0}, maps)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_plan(plan(), tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_everything_comes_back(file: Path) -> None:
    back, wanted = load_plan(file), plan()
    assert (back.sites, back.policy, back.predicted) == (wanted.sites, wanted.policy, wanted.predicted)
    assert back.fingerprint == wanted.fingerprint
    for mine, others in ((back.updates, wanted.updates), (back.adapter_maps, wanted.adapter_maps)):
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[name], value) and mine[name].dtype == value.dtype for name, value in others.items())
    assert plan_digest(back) == plan_digest(wanted)


@pytest.mark.parametrize("change", ["bit", "type", "shape", "more", "fewer", "swapped", "map", "gone"])
def test_other_weights_beside_it_are_refused(change: str, file: Path) -> None:
    beside = updates_file(file)
    tensors = load_file(beside)
    if change == "bit":
        tensors["f.up.weight"].view(torch.int32)[1, 2] ^= 1
    elif change == "type":
        tensors["f.up.bias"] = tensors["f.up.bias"].float()
    elif change == "shape":
        tensors["f.up.weight"] = torch.cat([tensors["f.up.weight"], torch.zeros(1, 3)])
    elif change == "more":
        tensors["f.down.weight"] = torch.ones(1)
    elif change == "fewer":
        del tensors["f.up.bias"]
    elif change == "swapped":
        tensors["adapter_maps/a.q"], tensors["f.up.weight"] = tensors["f.up.weight"], tensors["adapter_maps/a.q"]
    elif change == "map":
        tensors["adapter_maps/f.up"][1, 1] = 2
    save_file(tensors, beside)
    if change == "gone":
        beside.unlink()
    with pytest.raises(PlanError, match=r"keep the \.safetensors file with its plan"):
        load_plan(file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 1),
        (("sites", "f", "kept"), [5, 0]),
        (("sites", "f", "kept"), [0, 0]),
        (("sites", "f", "kept"), [0, 6]),
        (("sites", "f", "kept"), [-1, 0]),
        (("sites", "f", "kept"), []),
        (("sites", "f", "kept"), [0.0, 5.0]),
        (("sites", "f", "kept"), [False, True]),
        (("sites", "f", "width"), 1),
        (("sites", "f", "kind"), "convolution"),
        (("sites", "f", "units"), "6"),
        (("sites", "a", "width"), 0),
        (("sites", "a", "width"), 2.5),
        (("sites",), []),
        (("updates",), {}),
        (("updates", "f.up.weight"), "0" * 64),
        (("adapter_maps",), {}),
    ],
)
def test_an_edited_text_is_refused(path: tuple[str, ...], value: object, file: Path) -> None:
    data = json.loads(file.read_text())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(PlanError):
        load_plan(file)


@pytest.mark.parametrize("name", ["fingerprint", "sites", "policy", "updates", "predicted"])
def test_what_a_text_lacks_is_named(name: str, file: Path) -> None:
    data = json.loads(file.read_text())
    del data[name]
    file.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=f"lacks or garbles '{name}'"):
        load_plan(file)


def test_what_is_no_plan_is_named(file: Path) -> None:
    with pytest.raises(CheckpointError, match="no plan at"):
        load_plan(file.with_name("other.json"))
    file.write_text("[1]")
    with pytest.raises(PlanError, match="list"):
        load_plan(file)
    updates_file(file).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"plan\.json can't be read"):
        load_plan(file)


def test_the_digest_is_of_everything() -> None:
    one = plan()
    moved = {**one.updates, "f.up.bias": torch.tensor([1.0, -2.5]).half()}
    others = [
        replace(one, sites={**one.sites, "f": SitePlan("feed_forward", 6, (0, 4))}),
        replace(one, sites={**one.sites, "a": SitePlan("attention", 4, (1, 2, 3), 4)}),
        replace(one, policy={}),
        replace(one, updates=moved),
        replace(one, adapter_maps={}),
        replace(one, fingerprint={}),
    ]
    assert len({plan_digest(each) for each in (one, *others)}) == 7
