"""What commands without a verdict show while they work, and end on: their stages, what was made, and the time."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from slimdiff_fx.cli import app
from slimdiff_fx.commands.terminal import TerminalListener
from tests.failing_command import runner

STAGE = r"(?m)^{}\s+\d+\.\d s$"


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_stages_and_the_time_taken(command: str, toy_pipeline: Path, statistics: Path, tmp_path: Path) -> None:
    out, more, stages = tmp_path / "plan.json", (), ["load", "capture"]
    if command == "plan":
        more, stages = ("--statistics", str(statistics), "--tau", "0.2", "-o", str(out)), [*stages, "analyze"]
    result = runner.invoke(app, [command, str(toy_pipeline), *more])
    assert result.exit_code == 0, result.output
    printed = result.stdout.replace("\r", "")
    assert all(re.search(STAGE.format(stage), printed) for stage in stages)
    if command == "inspect":
        assert max(map(len, printed.splitlines())) <= 80, "nothing for a terminal to wrap"
    last = {"inspect": r"inspected in \d+:\d\d:\d\d", "plan": rf"planned in \d+:\d\d:\d\d: {re.escape(str(out))}"}
    assert re.fullmatch(last[command], printed.splitlines()[-1])


def test_a_note_in_a_file_is_one_line_with_its_brackets() -> None:
    file = io.StringIO()
    text = "a path that is longer than forty columns: /models/[red]/unet/diffusion_pytorch_model.safetensors"
    TerminalListener(Console(file=file, width=40)).note(text)
    assert file.getvalue() == f"note {text}\n"
