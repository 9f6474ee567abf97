"""Saved slim models: a file that isn't the one that was saved is refused by who loads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from passes.errors import CheckpointError, PlanError
from slimdiff_fx.denoisers.slim.files import CHECKSUMS_FILE
from slimdiff_fx.denoisers.slim.models import SlimUNet2DConditionModel, make_slim
from slimdiff_fx.files.plan_file import PLAN_FILE, load_plan, save_plan
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_pipeline import tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model() -> Any:
    dense = tiny_unet()
    return make_slim(dense, random_plan(dense, 5))


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def load(folder: Path) -> Any:
    return SlimUNet2DConditionModel.from_pretrained(folder)


def test_what_was_saved_is_loaded(model: Any, folder: Path) -> None:
    loaded = load(folder)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert json.loads((folder / CHECKSUMS_FILE).read_text()).keys() == {WEIGHTS}
    assert loaded.slim_plan().sites == model.slim_plan().sites
    assert loaded.plan_from_dense().sites == model.slim_plan().sites
    inner = SlimUNet2DConditionModel.from_pretrained(folder.parent, subfolder="unet")
    assert inner.slim_plan().sites == model.slim_plan().sites


@pytest.mark.parametrize("subfolder", [True, False])
def test_one_changed_weight_is_refused(subfolder: bool, folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"].view(-1)[3] += 1e-6
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match="is not the file that was saved"):
        load(folder) if not subfolder else SlimUNet2DConditionModel.from_pretrained(folder.parent, subfolder="unet")


def test_a_missing_shard_is_named(folder: Path) -> None:
    listed = json.loads((folder / CHECKSUMS_FILE).read_text())
    (folder / CHECKSUMS_FILE).write_text(json.dumps({**listed, "second.safetensors": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"second\.safetensors is missing"):
        load(folder)
    (folder / CHECKSUMS_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="garbled"):
        load(folder)


def test_a_plan_of_another_model_is_not_believed(model: Any, folder: Path) -> None:
    plan = load_plan(folder / PLAN_FILE)
    save_plan(replace(plan, policy={"edited": 1}), folder / PLAN_FILE)
    loaded = load(folder)
    with pytest.raises(CheckpointError, match="not the one that this model was made by"):
        loaded.slim_plan()
    with pytest.raises(CheckpointError, match="not the one that this model was made by"):
        loaded.plan_from_dense()
    with pytest.raises(CheckpointError, match="not the one that this model was made by"):
        loaded.save_pretrained(folder.parent / "again")
    (folder / PLAN_FILE).unlink()
    with pytest.raises(CheckpointError, match="is missing, without which nobody knows"):
        loaded.slim_plan()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kept": 0}, "0 of"),
        ({"kept": 99}, "99 of"),
        ({"units": 3}, "units"),
        ({"width": 0}, "width 0"),
        ({"width": 999}, "width 999"),
        ({"kept": "many"}, "garbled"),
        ({"kind": "convolution"}, "garbled"),
    ],
)
def test_widths_that_cant_be_are_refused(change: dict[str, Any], words: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    name = next(name for name, entry in config["slim_units"].items() if entry["kind"] == "attention")
    config["slim_units"][name] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load(folder)


@pytest.mark.parametrize("fact", ["units", "kept", "width"])
def test_only_a_plan_from_the_dense_model_leads_from_there(fact: str, model: Any) -> None:
    entries = {name: dict(entry) for name, entry in model.config.slim_units.items()}
    name = next(iter(entries))
    entries[name][fact] = 1
    before = model.config.slim_units
    model.register_to_config(slim_units=entries)
    try:
        with pytest.raises(PlanError, match=f"{name}.*more than once"):
            model.plan_from_dense()
    finally:
        model.register_to_config(slim_units=before)
    model.plan_from_dense()
