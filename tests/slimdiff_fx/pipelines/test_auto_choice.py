"""What `auto` comes to: by the files' own headers, and by what the machine has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from passes.errors import UsageError
from slimdiff_fx.pipelines.auto_choice import chosen_device, chosen_dtype, stored_dtype
from slimdiff_fx.pipelines.load import load_pipeline


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert chosen_device("auto") == device
    assert chosen_device("cpu") == "cpu"
    assert chosen_device("cuda:3") == "cuda:3"


@pytest.mark.parametrize(
    ("stored", "device", "chosen"),
    [
        ("float16", "cpu", "float32"),
        ("float16", "cuda", "float16"),
        ("float16", "cuda:1", "float16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float32", "cuda", "float32"),
        (None, "cuda", "float32"),
    ],
)
def test_the_stored_precision_but_for_half_on_a_cpu(stored: str | None, device: str, chosen: str) -> None:
    assert chosen_dtype(stored, device) == chosen


KINDS = {
    "half": torch.float16,
    "brain": torch.bfloat16,
    "full": torch.float32,
    "double": torch.float64,
    "ids": torch.int64,
}


def _file(folder: Path, name: str, **counts: int) -> None:
    kinds = {
        "half": torch.float16,
        "brain": torch.bfloat16,
        "full": torch.float32,
        "double": torch.float64,
        "ids": torch.int64,
    }
    save_file({word: torch.zeros(count, dtype=kinds[word]) for word, count in counts.items()}, folder / name)


def test_what_most_weights_are_stored_as_decides(tmp_path: Path) -> None:
    assert stored_dtype(tmp_path, None) is None
    _file(tmp_path, "model.safetensors", brain=9, full=2)
    assert stored_dtype(tmp_path, None) == "bfloat16"
    _file(tmp_path, "model.fp16.safetensors", half=9)
    assert stored_dtype(tmp_path, None) == "bfloat16", "a variant counts when it is loaded"
    assert stored_dtype(tmp_path, "fp16") == "float16"
    assert stored_dtype(tmp_path, "ema") == "bfloat16", "diffusers takes plain files where there are none"


def test_files_in_parts_count_together(tmp_path: Path) -> None:
    _file(tmp_path, "model-00001-of-00002.safetensors", full=3)
    _file(tmp_path, "model-00002-of-00002.safetensors", half=4)
    assert stored_dtype(tmp_path, None) == "float16"
    _file(tmp_path, "model-00002-of-00002.safetensors", double=4)
    assert stored_dtype(tmp_path, None) == "float32", "nothing runs in float64"


def test_what_is_no_precision_to_run_in_is_refused(tmp_path: Path) -> None:
    _file(tmp_path, "model.safetensors", ids=9, half=2)
    with pytest.raises(UsageError, match=r"stored as I64; say what to load them as, by `dtype`"):
        stored_dtype(tmp_path, None)


@pytest.mark.parametrize(("stored", "loaded"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float32")])
def test_a_pipeline_loads_in_its_own_precision(
    toy_pipeline: Path, tmp_path: Path, stored: torch.dtype, loaded: str
) -> None:
    DiffusionPipeline.from_pretrained(toy_pipeline, torch_dtype=stored).save_pretrained(tmp_path / "pipeline")
    found = load_pipeline(str(tmp_path / "pipeline"), device="auto", dtype="auto")
    expected = getattr(torch, loaded)
    assert {found.pipe.unet.dtype, found.pipe.vae.dtype, found.pipe.text_encoder.dtype} == {expected}
    assert found.pipe.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load_pipeline(str(tmp_path / "pipeline"), dtype="float32").pipe.unet.dtype == torch.float32


def test_of_the_hub_s_files_the_same_are_looked_at(
    toy_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiffusionPipeline.from_pretrained(toy_pipeline, torch_dtype=torch.bfloat16).save_pretrained(tmp_path / "cached")
    asked: list[str] = []
    plain = DiffusionPipeline.from_pretrained

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(tmp_path / "cached")

    def from_pretrained(name: str, **settings: object) -> DiffusionPipeline:
        assert name == "owner/name"
        return plain(str(tmp_path / "cached"), **settings)

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", from_pretrained)
    assert load_pipeline("owner/name", dtype="auto").pipe.unet.dtype == torch.bfloat16
    assert asked == ["owner/name"]


def test_a_slim_folder_is_read_like_any_other(slim_folders: dict[str, Path]) -> None:
    found = load_pipeline(str(slim_folders["best"]), dtype="auto")
    assert found.pipe.unet.dtype == torch.float32
    assert json.loads((slim_folders["best"] / "unet/config.json").read_text())["_class_name"].startswith("Slim")
