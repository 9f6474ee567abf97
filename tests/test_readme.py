"""What the README and the pages beside it show is run.

Python as written but for smaller numbers; commands against the options.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from slimdiff_fx.cli import app

ROOT = Path(__file__).parents[1]
# These say together what a newcomer is told; other pages have tests of their own (`test_docs_pages.py` says which).
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("command_line", "python", "benchmarks"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _blocks(language: str) -> list[str]:
    """Give the blocks, each once: the README's Python is that of the page on Python."""
    return list(dict.fromkeys(re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)))


def _smaller(code: str) -> str:
    """Keep the code and turn its costs down."""
    return re.sub(r"\b(samples|steps|num_inference_steps)=\d+", r"\1=2", code)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every block alone but the ONNX one, which goes on; the one that slims comes first, in place of the demo."""
    folder = tmp_path_factory.mktemp("readme")
    slimming, staging, loading = (block for block in _blocks("python") if "export_onnx" not in block)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in (slimming, loading, staging):
            own: dict[str, Any] = {}
            exec(compile(_smaller(block), "README.md", "exec"), own)
            names |= own
            if block is slimming:
                shutil.copytree("slim-apples", "slim-emoji")
    names["folder"] = folder
    return names


def test_there_is_python_to_run() -> None:
    code = "".join(_blocks("python"))
    for name in ("slim", "capture", "prepare", "calibrate", "analyze", "convert", "lower", "export_onnx", "apply_plan"):
        assert f"slimdiff_fx.{name}(" in code


@pytest.mark.slow
def test_the_saved_pipeline_draws(namespace: dict[str, Any]) -> None:
    assert namespace["image"].size == (64, 64)


@pytest.mark.slow
def test_the_saved_folder_is_a_pipeline(namespace: dict[str, Any]) -> None:
    assert (namespace["folder"] / "slim-apples/model_index.json").is_file()


@pytest.mark.slow
def test_the_stages_slim_within_the_budget(namespace: dict[str, Any]) -> None:
    dense = sum(p.numel() for p in namespace["dense"].unet.parameters())
    eager = sum(p.numel() for p in namespace["eager"].parameters())
    assert 0.9 * dense < eager <= 0.95 * dense


@pytest.mark.slow
def test_lowered_and_eager_are_the_slim_program(namespace: dict[str, Any]) -> None:
    program = namespace["program"]
    expected = namespace["slim"](*program.args, **program.kwargs)
    lowered = namespace["exported"].module()(*program.args, **program.kwargs)
    torch.testing.assert_close(lowered, expected, rtol=0, atol=1e-5)
    sample, timestep, text = program.args
    eager = namespace["eager"](sample, timestep, text, return_dict=False)[0]
    torch.testing.assert_close(eager, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_onnx_block(namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(namespace["folder"])
    (block,) = (block for block in _blocks("python") if "export_onnx" in block)
    exec(compile(block, "README.md", "exec"), namespace)
    assert (namespace["folder"] / "unet.onnx").is_file()


def _commands() -> list[list[str]]:
    lines = "".join(_blocks("bash")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("slimdiff-fx ")]


def test_every_command_is_shown() -> None:
    assert {command[0] for command in _commands()} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_shown_commands_take_the_shown_options(words: list[str]) -> None:
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    options = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}
    needed = {p.opts[0] for p in command.params if p.required and p.param_type_name == "option"}
    shown = {word for word in words if word.startswith("-")}
    assert shown <= options
    assert all(any(flag in shown for flag in p.opts) for p in command.params if p.opts[0] in needed)


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z-]+)", "".join(_blocks("bash")), flags=re.MULTILINE))
    assert {"demo", "test"} <= shown <= targets


def test_shown_modules_exist() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
