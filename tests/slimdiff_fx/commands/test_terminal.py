"""What a run tells whoever watches it, on a real pseudo-terminal and in a file."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import slimdiff_fx.commands.terminal
from slimdiff_fx.commands.terminal import TerminalListener

SCRIPT = """
import time
from rich.console import Console
from slimdiff_fx.commands.terminal import TerminalListener

listener = TerminalListener(Console(), ("capture", "calibrate", "analyze", "save"))
with listener.stage("capture"):
    listener.note("a note")
with listener.steps("calibrate", 40, 8, "samples", 4):
    for _ in range(8):
        time.sleep(0.15)
        listener.advance(4)
with listener.stage("analyze"), listener.steps("plan", 3, 0, "sites"):
    for _ in range(3):
        time.sleep(0.15)
        listener.advance(1)
"""


def _on_a_terminal(command: list[str], width: int = 120) -> tuple[str, int]:
    """Run a command on a pseudo-terminal; give what it wrote and its exit code."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(width), "LINES": "40"}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            written += part
        code = process.wait()
    os.close(master)
    return written.decode(), code


def _plain(written: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)


def test_a_terminal_shows_stages_progress_speed_and_time_left() -> None:
    written, code = _on_a_terminal([sys.executable, "-c", SCRIPT])
    assert code == 0, written
    assert "\x1b[" in written, "drawn in place"
    text = _plain(written)
    assert "2/4 calibrate" in text
    assert "then analyze, save" in text
    assert re.search(r"[3-9]/10 samples, [\d.]+ samples/s", text)
    assert re.search(r"\d:\d\d:\d\d left", text)
    assert re.search(r"plan .* [12]/3 sites", text)
    assert "note a note" in text
    last = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    assert re.fullmatch(r"analyze +\d+\.\d s", last[-1])


def test_a_stage_too_short_for_a_refresh_is_shown() -> None:
    script = SCRIPT + "\nwith listener.steps('save', 9, 0, 'files'):\n    pass\n"
    written, code = _on_a_terminal([sys.executable, "-c", script])
    assert code == 0, written
    assert re.search(r"4/4 save .*0/9 files", _plain(written))


def test_a_file_gets_plain_lines_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimdiff_fx.commands.terminal, "_LINE_EVERY", 0.0)
    out = io.StringIO()
    listener = TerminalListener(Console(file=out, width=100), ("calibrate", "save"))
    with listener.steps("calibrate", 40, 20, "samples", 4):
        listener.advance(10)
        listener.advance(10)
    with listener.stage("save"):
        pass
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert re.fullmatch(r"calibrate  8/10 samples, [\d.e+]+ samples/s, 0:00:00 left", lines[0])
    assert re.fullmatch(r"calibrate +\d\.\d s  10 samples, [\d.e+]+ samples/s", lines[-2])
    assert lines[-1].startswith("save ")


def test_a_failure_ends_the_view_and_leaves_the_cursor() -> None:
    script = SCRIPT + "\nwith listener.stage('save'):\n    raise SystemExit(3)\n"
    written, code = _on_a_terminal([sys.executable, "-c", script])
    assert code == 3
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0


@pytest.mark.slow
def test_slim_on_a_terminal(toy_pipeline: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slimdiff_fx", "slim", str(toy_pipeline), "-o", str(tmp_path / "slim")]
    written, code = _on_a_terminal([*command, "--samples", "4", "--batch", "2", "--pictures", "1"])
    text = _plain(written)
    assert code == 0, text
    for shown in (
        "1/9 load",
        "3/9 calibrate",
        "9/9 save",
        "/4 samples",
        "4 samples, ",
        "then validate, draw, time, save",
        "whole denoiser",
    ):
        assert shown in text
    assert (tmp_path / "slim/analysis.json").is_file()
