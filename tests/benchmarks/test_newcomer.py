"""The newcomer's page has every step as it is run; the steps' options exist, and the notebook's code runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from benchmarks.newcomer import NOTEBOOK, PAGE, ROOT, STEPS, Step, cells_of, page, run, tidy
from slimdiff_fx.cli import app

CELLS = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
COMMANDS = [
    shlex.split(line)[1:]
    for step in STEPS
    for line in step.shell.splitlines()
    if line.strip().startswith("slimdiff-fx ")
]
MACHINE = {"cores": 2, "cpu": "a CPU", "memory_gb": 24, "gpu": None, "python": "3.11", "when": "2026-01-01"}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_the_page_has_each_step_as_it_is_run_with_its_time(step: Step) -> None:
    written = PAGE.read_text(encoding="utf-8")
    section = written.split(f"\n## {step.title}\n")[1].split("\n## ")[0]
    assert f"```bash\n{step.shell}\n```" in section
    assert re.search(r"^(\d+ min )?\d+ s\.$", section, flags=re.MULTILINE)
    assert re.search(rf"^\| \[{step.title}\]\(#[a-z-]+\) \| (\d+ min )?\d+ s \|$", written, flags=re.MULTILINE)


def test_the_page_shows_what_the_notebook_has() -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## Notebook\n")[1]
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert f"```python\n{''.join(cell['source'])}\n```" in section


def test_there_are_commands_of_each_part() -> None:
    assert {words[0] for words in COMMANDS} == {"inspect", "slim", "export"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_commands_take_their_options(words: list[str]) -> None:
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= flags


def test_make_has_the_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(step.shell for step in STEPS), flags=re.MULTILINE)
    assert targets == ["install", "demo"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_notebook_is_kept_without_outputs() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) == 5
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), NOTEBOOK, "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    small = [(r"samples=\d+, steps=\d+", "samples=4, steps=2"), (r"num_inference_steps=\d+", "num_inference_steps=2")]
    for cell in notebook.cells:
        for pattern, smaller in small:
            cell.source = re.sub(pattern, smaller, cell.source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "slim-notebook/model_index.json").is_file()
    shown = [data for cell in notebook.cells for out in cell.get("outputs", ()) if (data := out.get("data"))]
    assert any("SlimResult" in data.get("text/plain", "") for data in shown)
    assert any("image/png" in data for data in shown)


def test_what_a_step_prints_is_shown_without_the_machine_s_own_places(tmp_path: Path) -> None:
    step = Step("One", "Words.", f"echo 'note: hidden' >&2\necho {tmp_path}/slim; printf '1%%\\r100%%\\n'; pwd")
    printed, seconds = run(step, tmp_path)
    assert tidy(printed, tmp_path) == "slim\n100%\n."
    assert 0 < seconds < 60


def test_a_step_that_fails_in_the_middle_ends_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"One: exit code 3\n(?s:.*)why"):
        run(Step("One", "Words.", "(echo why >&2; exit 3) | cat\necho on"), tmp_path)


def test_steps_don_t_inherit_this_process_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "VIRTUAL_ENV", "MAKEFLAGS"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("KEPT", "5")
    printed, _ = run(
        Step("One", "", 'echo "$PYTHONPATH$OMP_NUM_THREADS$VIRTUAL_ENV$MAKEFLAGS$KEPT,$COLUMNS"'), tmp_path
    )
    assert printed == "5,80\n"


def test_a_notebook_s_cells_and_texts() -> None:
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["words"]},
            {"cell_type": "code", "source": ["a = 1\n", "a"], "outputs": []},
            {
                "cell_type": "code",
                "source": ["print(a); a"],
                "outputs": [
                    {"output_type": "stream", "name": "stderr", "text": ["100%"]},
                    {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
                    {"output_type": "execute_result", "data": {"text/plain": ["11"], "text/html": ["<b>"]}},
                ],
            },
        ]
    }
    assert cells_of(notebook) == "```python\na = 1\na\n```\n\n```python\nprint(a); a\n```\n\n```text\n1\n11\n```"


def test_times_are_of_the_steps_and_of_all() -> None:
    steps = [(Step("One", "First.", "one"), "```text\n1\n```", 75.4), (Step("One more", "Then.", "two"), "", 5.0)]
    written = page(steps, {**MACHINE, "versions": {"torch": "2"}})
    assert "| [One](#one) | 1 min 15 s |\n| [One more](#one-more) | 5 s |\n| all | 1 min 20 s |\n" in written
    assert written.endswith("## One more\n\nThen.\n\n```bash\ntwo\n```\n\n5 s.\n")
