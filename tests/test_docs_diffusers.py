"""The page on diffusers is run: its Python as written but for fewer steps, its commands against the options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from diffusers import ControlNetModel, DiffusionPipeline
from safetensors.torch import save_file

from slimdiff_fx.cli import app
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_adapters import random_lora

PAGE = (Path(__file__).parents[1] / "docs" / "diffusers.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def namespace(toy_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every block, in order, in a folder that holds what the page names, on a toy."""
    folder = tmp_path_factory.mktemp("page")
    dense = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)
    dense.save_pretrained(folder / "emoji-dense")
    for seed, name in enumerate(("pixel-art", "night")):
        save_file(random_lora(dense.unet, seed), folder / f"{name}.safetensors")
    ControlNetModel.from_unet(dense.unet).save_pretrained(folder / "controlnet-edges")
    dense.register_modules(unet=make_slim(dense.unet, random_plan(dense.unet, 1)))
    dense.save_pretrained(folder / "slim-emoji")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in _blocks("python"):
            fewer = re.sub(r"\b(samples|steps|num_inference_steps)=\d+", r"\1=2", block)
            exec(compile(fewer, "diffusers.md", "exec"), names)
    return {**names, "folder": folder}


@pytest.mark.slow
def test_the_page_runs(namespace: dict[str, Any]) -> None:
    assert namespace["image"].size == (64, 64)
    assert type(namespace["pipe"].unet).__name__ == "SlimUNet2DConditionModel"
    assert (namespace["folder"] / "pixel-art-slim.safetensors").is_file()
    assert namespace["result"].summary.params_kept <= namespace["result"].summary.params
    assert list(namespace["program"].kwargs) == ["down_block_additional_residuals", "mid_block_additional_residual"]
    assert namespace["again"].unet.dtype == torch.float16


def test_shown_commands_take_the_shown_options() -> None:
    lines = "".join(_blocks("bash")).splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("slimdiff-fx ")]
    assert commands
    for words in commands:
        command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
        options = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options
