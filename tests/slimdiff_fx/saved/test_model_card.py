"""The card of a saved folder, and what goes to the hub."""

from __future__ import annotations

import json

import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.saved import hub
from slimdiff_fx.saved.model_card import base_model, model_card
from slimdiff_fx.saved.report import build_report
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


def test_card_of_a_saved_folder(result, tmp_path) -> None:
    result.save_pretrained(tmp_path / "slim")
    card = ModelCard.load(tmp_path / "slim" / "README.md")
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert "slimdiff_fx" in card.data.tags
    assert card.data.base_model is None  # it was a folder
    assert card.data.license is None
    assert "| weights of the denoiser | 1,000 | 900 | 90.0% |" in card.text
    assert "Nothing was measured." in card.text
    assert json.loads((tmp_path / "slim" / "report.json").read_text())["summary"]["params_kept"] == 900


def test_card_has_what_the_report_has(result, tmp_path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# Dense\n")
    report = build_report(result, model="owner/model", measured={"relative_mse": 1.24e-3, "prompts": 8})
    report["predicted"] = {"relative_mse": 9.4e-4}
    report["policy"] = {"method": "best", "budget": {"params": 0.9}}
    report["validation"] = {"relative_error": 7e-7, "dtype": "float32"}
    report["latency"] = {"backend": "ort", "threads": 1, "dense_ms": 13.04, "slim_ms": 11.71, "measured": 0.9}
    text = model_card(result.pipe, report, source=tmp_path, picture="pictures.png")
    data = ModelCard(text).data
    assert (data.base_model, data.license) == ("owner/model", "creativeml-openrail-m")
    for part in (
        "# model, slimmed",
        "![dense left, slim right, from the same seeds](pictures.png)",
        "the method `best`, 90% of the params kept",
        "expected: 9.4e-04",
        "measured while the dense model drew 8 pictures: 1.2e-03",
        "7.0e-07 in float32",
        "latency on ort, 1 threads: 13.0 ms dense, 11.7 ms slim",
    ):
        assert part in text, part


def test_local_folders_are_no_base_model(result, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert base_model(result.pipe, {"model": "models/dense"}) == "models/dense"
    (tmp_path / "models" / "dense").mkdir(parents=True)
    assert base_model(result.pipe, {"model": "models/dense"}) is None
    assert base_model(result.pipe, {"model": "emoji"}) is None


def test_push_to_hub_uploads_what_is_saved(result, monkeypatch) -> None:
    """Only the two calls that need a network are replaced."""
    seen = {}

    def create(repo_id, **options):
        seen["created"] = repo_id, options
        return type("Repository", (), {"repo_id": repo_id})

    def upload(*, repo_id, folder_path, **options):
        seen["files"] = {file.relative_to(folder_path).as_posix() for file in folder_path.rglob("*") if file.is_file()}
        seen["loaded"] = DiffusionPipeline.from_pretrained(folder_path)
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(hub, "create_repo", create)
    monkeypatch.setattr(hub, "upload_folder", upload)
    assert result.push_to_hub("owner/name", private=True) == "https://huggingface.co/owner/name/commit/1"
    assert seen["created"] == ("owner/name", {"private": True, "token": None, "exist_ok": True})
    needed = {"model_index.json", "README.md", "report.json", "unet/config.json", "unet/slim_plan.json"}
    assert needed | {"unet/diffusion_pytorch_model.safetensors", "unet/checksums.json"} <= seen["files"]
    assert not [name for name in seen["files"] if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert type(seen["loaded"].unet).__name__ == "SlimUNet2DConditionModel"


def test_a_denoiser_alone_goes_to_the_hub_with_its_plan(result, monkeypatch) -> None:
    from diffusers.utils import hub_utils

    names = []
    monkeypatch.setattr(hub_utils, "create_repo", lambda repo_id, **_: type("Repository", (), {"repo_id": repo_id}))
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *_, **__: ModelCard("---\ntags: []\n---\n"))
    monkeypatch.setattr(hub_utils, "upload_folder", lambda **call: names.extend(_names(call["folder_path"])))
    result.model.push_to_hub("owner/unet")
    once = sorted(names)
    assert {"slim_plan.json", "checksums.json", "diffusion_pytorch_model.safetensors", "README.md"} <= set(once)


def _names(folder):
    from pathlib import Path

    return [file.name for file in Path(folder).iterdir()]
