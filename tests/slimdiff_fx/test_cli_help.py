"""The help: panels, whole sentences, nothing cut at 80 columns; version, completion and the bare command, quickly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
import typer.main
from typer.testing import CliRunner

from slimdiff_fx.cli import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PANELS = ["What to calibrate on", "How much goes", "Latency", "Method", "Machine", "Output"]


def _help(*words: str) -> str:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def _panels(text: str) -> list[str]:
    return re.findall(r"^╭─ (.+?) ─+╮$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_is_short_or_long(command: str) -> None:
    text = _help(command, "--help")
    assert _help(command, "-h") == text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert [name for name in _panels(text) if name in PANELS] == [name for name in PANELS if name in _panels(text)]


def test_slim_s_options_are_in_panels() -> None:
    assert [name for name in _panels(_help("slim", "-h")) if name not in ("Arguments", "Options")] == PANELS


@pytest.mark.parametrize(
    ("command", "parameter"), [(name, each) for name, command in COMMANDS.items() for each in command.params], ids=str
)
def test_each_option_is_told_in_sentences(command: str, parameter: typer.core.TyperOption) -> None:
    assert re.fullmatch(r"(?s)[\S].*[.]", parameter.help or ""), f"{command} {parameter.name}"
    assert "[" not in (parameter.help or ""), "typer itself adds defaults"


def test_commands_are_told_in_sentences() -> None:
    text = _help("-h")
    assert _help("--help") == text
    assert set(COMMANDS) == {"slim", "inspect", "calibrate", "plan", "apply", "export", "report"}
    for name, command in COMMANDS.items():
        assert name in text
        assert command.help.endswith(".")


def test_the_bare_command_says_the_one_line_that_most_people_need() -> None:
    lines = _help().splitlines()
    assert "  slimdiff-fx slim MODEL -o DIR" in lines
    assert len(lines) < 8
    assert max(map(len, lines)) <= 80


def test_the_version_names_what_results_depend_on() -> None:
    text = _help("--version")
    for name in ("slimdiff-fx", "torch", "diffusers"):
        assert f"{name} {metadata.version(name)}" in text


@pytest.mark.parametrize("words", ["", "--version", "-h", "slim --help"])
def test_none_of_that_imports_torch(words: str) -> None:
    code = (
        f"import sys; sys.argv = ['slimdiff-fx', *{words.split()!r}]\n"
        "from slimdiff_fx.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "found"), [("slimdiff-fx in", "inspect"), ("slimdiff-fx slim --keep-p", "--keep-params")]
)
def test_a_shell_completes_commands_and_options(line: str, found: str) -> None:
    environment = {
        **os.environ,
        "_SLIMDIFF_FX_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = "import sys; sys.argv = ['slimdiff-fx']; from slimdiff_fx.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found in done.stdout.split(), done.stderr
