"""A saved folder is compared with what was saved whenever a command loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from passes.errors import CheckpointError, SlimDiffError
from slimdiff_fx.denoisers.slim import files as slim_files
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.files.manifest import MANIFEST_FILE, file_digest
from slimdiff_fx.files.own_folder import check_own_folder, own_folder
from slimdiff_fx.pipelines.load import emoji_folder, load_pipeline
from slimdiff_fx.saved.folder import save_pipeline
from tests.failing_command import run
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_pipeline import tiny_unet

UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a slim pipeline's folder, with a plan that has tensors; it must not be changed."""
    dense = tiny_unet()
    plan = random_plan(dense, 1)
    slim = make_slim(dense, plan)
    slim._plan = plan = type(plan)(**{**vars(plan), "adapter_maps": {"nowhere": torch.ones(3)}})
    slim.register_to_config(slim_plan=slim_files.plan_digest(plan))
    pipe = DiffusionPipeline.from_pretrained(emoji_folder(), unet=slim)
    folder = tmp_path_factory.mktemp("slim") / "pipeline"
    with own_folder(folder, overwrite=False) as partial:
        save_pipeline(pipe, partial)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "slim"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(bytes(content))


def test_what_was_saved_loads(folder: Path) -> None:
    loaded = load_pipeline(str(folder))
    assert loaded.edited == ()
    assert type(loaded.pipe.unet).__name__ == "SlimUNet2DConditionModel"


@pytest.mark.parametrize(
    "name",
    [
        UNET_WEIGHTS,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "unet/slim_plan.json",
        "unet/slim_plan.safetensors",
        "unet/config.json",
        "unet/checksums.json",
    ],
)
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_what_was_altered_is_refused(how: str, name: str, folder: Path) -> None:
    if how == "missing":
        (folder / name).unlink()
    else:
        flip(folder / name)
    with pytest.raises(SlimDiffError, match=r"altered|missing|not they|garbled|is no valid JSON|damaged|lacks"):
        load_pipeline(str(folder))


def change_json(file: Path, **entries: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def _other_widths(folder: Path) -> None:
    units = json.loads((folder / "unet/config.json").read_text())["slim_units"]
    units[min(units)]["kept"] += 1
    change_json(folder / "unet/config.json", slim_units=units)


def _no_widths(folder: Path) -> None:
    change_json(folder / "unet/config.json", slim_units={})


def _other_digest(folder: Path) -> None:
    change_json(folder / "unet/config.json", slim_plan="0" * 64)


def _other_plan(folder: Path) -> None:
    change_json(folder / "unet/slim_plan.json", policy={"method": "another"})


@pytest.mark.parametrize("change", [_other_widths, _no_widths, _other_digest, _other_plan])
@pytest.mark.parametrize("recorded", [True, False])
def test_plan_and_widths_must_fit_also_in_a_folder_of_an_earlier_version(
    change: object, recorded: bool, folder: Path
) -> None:
    if not recorded:
        (folder / MANIFEST_FILE).unlink()
    assert callable(change)
    change(folder)
    with pytest.raises(CheckpointError, match=r"altered|doesn't fit"):
        load_pipeline(str(folder))


@pytest.mark.parametrize("command", ["export", "inspect", "apply", "slim", "calibrate", "plan"])
def test_every_command_that_loads_it_refuses_it(command: str, folder: Path, plan: Path, statistics: Path) -> None:
    flip(folder / "unet/slim_plan.safetensors")
    words: dict[str, list[object]] = {
        "export": ["--format", "onnx"],
        "inspect": [],
        "apply": ["--plan", plan, "-o", folder.parent / "out"],
        "slim": ["-o", folder.parent / "out"],
        "calibrate": ["-o", folder.parent / "out"],
        "plan": ["--statistics", statistics, "-o", folder.parent / "out"],
    }
    run(command, folder, *words[command], expect=2)
    assert [each.name for each in folder.parent.iterdir()] == ["slim"]


def test_settings_may_be_edited_and_are_told(folder: Path) -> None:
    change_json(folder / "scheduler/scheduler_config.json", steps_offset=0)
    (folder / "README.md").write_text("my own words")
    assert load_pipeline(str(folder)).edited == ("scheduler/scheduler_config.json",)


def test_who_altered_weights_on_purpose_can_say_so(folder: Path) -> None:
    flip(folder / "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"on purpose, delete .*slimdiff_fx\.json"):
        load_pipeline(str(folder))
    (folder / MANIFEST_FILE).unlink()
    load_pipeline(str(folder))


def test_each_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watched(file: Path) -> str:
        read.append(file.name if file.parent.name == "unet" else str(file.relative_to(folder)))
        return file_digest(file)

    monkeypatch.setattr(slim_files, "file_digest", watched)
    monkeypatch.setattr("slimdiff_fx.files.manifest.file_digest", watched)
    load_pipeline(str(folder))
    assert len(read) == len(set(read))
    assert Path(UNET_WEIGHTS).name in read
    assert "vae/diffusion_pytorch_model.safetensors" in read
    assert "slim_plan.safetensors" not in read, "the plan's own digests say more"


def test_saved_over_by_diffusers_it_loads_and_is_no_longer_ours_to_replace(folder: Path) -> None:
    pipe = load_pipeline(str(folder)).pipe
    with torch.no_grad():
        pipe.unet.conv_in.weight += 1.0  # as fusing does
    pipe.save_pretrained(folder)
    again = load_pipeline(str(folder)).pipe
    assert torch.equal(again.unet.conv_in.weight, pipe.unet.conv_in.weight)
    with pytest.raises(CheckpointError, match="didn't write"):
        check_own_folder(folder, overwrite=True)
