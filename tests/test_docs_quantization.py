"""The pages on quantization and on devices are run as written, on a small pipeline."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from slimdiff_fx.cli import app
from slimdiff_fx.export.formats import FORMATS

DOCS = Path(__file__).parents[1] / "docs"
NEEDS = {"quantization.md": ("torchao", "nncf", "openvino"), "deployment.md": ("executorch",)}


def _blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def _run(page: str, toy_pipeline: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    missing = [name for name in NEEDS[page] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{page} needs {', '.join(missing)}")
    shutil.copytree(toy_pipeline, folder / "slim-emoji")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in _blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.slow
def test_the_page_on_quantization(
    toy_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _run("quantization.md", toy_pipeline, tmp_path, monkeypatch)
    assert {"unet.int8.onnx", "unet.int8.xml", "unet.int8.bin"} <= {file.name for file in tmp_path.iterdir()}
    assert names["report"].relative_mse < 1e-3
    assert names["image"].size == (64, 64)
    assert names["statistics"].calls == len(names["calls"])
    scale = float(names["prediction"].abs().max())
    torch.testing.assert_close(names["fast"], names["prediction"], rtol=0, atol=0.1 * scale)
    assert "slim the float model first" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_devices(
    toy_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _run("deployment.md", toy_pipeline, tmp_path, monkeypatch)
    assert names["report"].relative < 1e-4
    assert {"unet.pte", "unet.tensorrt.onnx"} <= {file.name for file in tmp_path.iterdir()}
    assert "trtexec --onnx=unet.tensorrt.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [line for page in NEEDS for line in "".join(_blocks(page, "bash")).splitlines() if line], ids=str
)
def test_shown_commands(line: str) -> None:
    name, command, *words = shlex.split(line, comments=True)
    assert name == "slimdiff-fx"
    options = {flag for each in typer.main.get_command(app).commands[command].params for flag in each.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= options
    if "--int8" in words:
        assert words[words.index("--int8") + 1] in FORMATS[words[words.index("--format") + 1]].int8
