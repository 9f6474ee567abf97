"""A plan and its tensors on disk: together, or as they were; and never another's."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from passes.errors import CheckpointError, OutputError, PlanError
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.files import atomic_write
from slimdiff_fx.files.own_files import PLAN, refuse_foreign_file
from slimdiff_fx.files.plan_file import load_plan, save_plan
from tests.file_tree import tree

BARE = SlimPlan({"structure": "x", "weights": {}}, {"a": SitePlan("feed_forward", 4, (0, 2))})


def solved(value: float) -> SlimPlan:
    return replace(BARE, updates={"a.weight": torch.full((2, 3), value)}, adapter_maps={"a": torch.ones(2)})


def test_tensors_go_with_their_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    for plan in (solved(1.0), solved(2.0), BARE, solved(3.0)):
        save_plan(plan, file)
        assert load_plan(file).to_json() == plan.to_json()
        assert file.with_suffix(".safetensors").exists() == bool(plan.updates)
    assert float(load_plan(file).updates["a.weight"][0, 0]) == 3.0


@pytest.mark.parametrize("failing", [1, 2])
def test_a_write_that_fails_in_between_leaves_the_old_plan_with_its_tensors(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plan.json"
    save_plan(solved(1.0), file)
    before, calls, rename = tree(tmp_path), [], os.replace

    def fails_once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic_write.os, "replace", fails_once)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_plan(solved(2.0), file)
    assert tree(tmp_path) == before


def test_a_kill_between_tensors_and_text_is_told_and_can_be_mended(tmp_path: Path) -> None:
    """The tensors are there first: the old text names others, and says so; or there is no text yet."""
    old, new = tmp_path / "plan.json", tmp_path / "new.json"
    save_plan(solved(1.0), old)
    save_plan(replace(solved(2.0), adapter_maps={}), new)
    os.replace(new.with_suffix(".safetensors"), old.with_suffix(".safetensors"))
    with pytest.raises(PlanError, match="those that lie beside it are not they"):
        load_plan(old)
    save_plan(solved(3.0), old)
    assert float(load_plan(old).updates["a.weight"][0, 0]) == 3.0
    old.unlink()
    save_plan(solved(4.0), old)
    assert float(load_plan(old).updates["a.weight"][0, 0]) == 4.0


def test_what_is_no_plan_is_not_replaced(tmp_path: Path) -> None:
    file, beside = tmp_path / "plan.json", tmp_path / "plan.safetensors"
    file.write_text(json.dumps({"precious": 1}))
    with pytest.raises(OutputError, match=r"plan\.json is not a plan"):
        save_plan(BARE, file)
    file.unlink()
    save_file({"weight": torch.zeros(2)}, beside, {"format": "pt"})
    before = tree(tmp_path)
    for plan in (BARE, solved(1.0)):
        with pytest.raises(OutputError, match=r"plan\.safetensors would be replaced"):
            save_plan(plan, file)
    assert tree(tmp_path) == before


def test_tensors_of_earlier_versions_are_known_by_their_names(tmp_path: Path) -> None:
    file, beside = tmp_path / "plan.json", tmp_path / "plan.safetensors"
    save_plan(solved(1.0), file)
    tensors = load_file(beside)
    save_file(tensors, beside)
    refuse_foreign_file(file, PLAN)
    save_file({**tensors, "mine": torch.zeros(1)}, beside)
    with pytest.raises(OutputError, match="would be replaced"):
        refuse_foreign_file(file, PLAN)


@pytest.mark.parametrize("both", [True, False])
def test_a_plan_is_read_through_links(both: bool, tmp_path: Path) -> None:
    save_plan(solved(1.0), tmp_path / "plan.json")
    link = tmp_path / "elsewhere" / "latest.json"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "plan.json")
    if both:  # as the hub's cache keeps them: each file a link to where its name says nothing
        os.replace(tmp_path / "plan.safetensors", tmp_path / "0123")
        link.with_suffix(".safetensors").symlink_to(tmp_path / "0123")
    assert load_plan(link).to_json() == solved(1.0).to_json()


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_plan(solved(1.0), Path("~/plan.json"))
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "plan.safetensors"]
    assert load_plan(Path("~/plan.json")).updates.keys() == {"a.weight"}
