"""What lies in a saved folder beside the pipeline, and what the card says of it."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

from passes.errors import UsageError
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.saved.compare import PICTURE_FILE
from slimdiff_fx.saved.folder import save_pipeline, save_result
from slimdiff_fx.saved.summary import SiteSummary, Summary
from slimdiff_fx.slimming.result import SlimResult
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan

SITE = SiteSummary("mid.attn1", "attention", 4, 3, 8, 8, 400, 300, 4000, 3000)


@pytest.fixture(scope="module")
def result(toy_pipeline):
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline)
    plan = random_plan(pipe.unet, 1)
    slim = make_slim(pipe.unet, plan)
    pipe.register_modules(unet=slim)
    return SlimResult(plan, None, slim, pipe, Summary((SITE,), 1000, 900, 20_000, 19_000), None, None)


def test_further_files_and_the_report_are_saved_as_given(result, tmp_path) -> None:
    report = {"summary": result.summary.to_json(), "policy": {"method": "by hand"}}
    files = {PICTURE_FILE: b"a picture", "folder/more.txt": b"more"}
    save_result(result, tmp_path / "slim", report=report, files=files)
    folder = tmp_path / "slim"
    saved = json.loads((folder / "report.json").read_text())
    assert saved.pop("headline")["bytes_slim"] == sum(
        file.stat().st_size for file in (folder / "unet").glob("diff*.safetensors")
    )
    assert saved == report
    assert (folder / PICTURE_FILE).read_bytes() == b"a picture"
    assert (folder / "folder" / "more.txt").read_bytes() == b"more"
    text = ModelCard.load(folder / "README.md").text
    assert f"]({PICTURE_FILE})" in text
    assert "the method `by hand`" in text
    save_result(result, tmp_path / "bare", report=report, files={"other.txt": b""})
    assert PICTURE_FILE not in ModelCard.load(tmp_path / "bare" / "README.md").text
    assert not (tmp_path / "bare" / "statistics.safetensors").exists()


def test_where_it_came_from_is_not_in_the_files(result, tmp_path) -> None:
    save_result(result, tmp_path / "slim")
    for config in (tmp_path / "slim").rglob("*.json"):
        assert "_name_or_path" not in config.read_text(), config
    index = json.loads((tmp_path / "slim" / "model_index.json").read_text())
    assert index["unet"] == ["slimdiff_fx", "SlimUNet2DConditionModel"]


def test_weights_that_fit_half_precision_are_stored_so_and_left_as_they_were(toy_pipeline, tmp_path) -> None:
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.copy_(parameter.half().float())
        next(pipe.vae.parameters()).fill_(1 / 3)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    save_pipeline(pipe, tmp_path / "saved")
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert {value.dtype for value in pipe.unet.parameters()} == {torch.float32}
    sizes = {name: sum(value.numel() for value in getattr(pipe, name).parameters()) for name in ("unet", "vae")}
    files = {name: next((tmp_path / "saved" / name).glob("*.safetensors")).stat().st_size for name in sizes}
    assert 2 * sizes["unet"] < files["unet"] < 3 * sizes["unet"]
    assert files["vae"] > 4 * sizes["vae"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, before[name]) for name, value in loaded.unet.state_dict().items())
    assert {value.dtype for value in loaded.unet.parameters()} == {torch.float32}


def test_a_denoiser_alone_is_no_pipeline_to_save(result, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"save result\.model instead"):
        save_result(SlimResult(result.plan, None, result.model, None, result.summary, None, None), tmp_path / "slim")
    assert list(tmp_path.iterdir()) == []
