"""Run a command that must fail, and see that it fails as it should."""

from __future__ import annotations

import os

from typer.testing import CliRunner

from slimdiff_fx.cli import app

QUICK = ("--samples", "2", "--steps", "1", "--pictures", "0")
runner = CliRunner()


def run(*arguments, expect):
    """Run a command that must fail, and give its one line."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.output
    return lines[0]


def only(folder, *names):
    return sorted(os.listdir(folder)) == sorted(names)


def refused(*arguments, **options):
    """Run a command that usage can mend, and give its one line of error."""
    result = runner.invoke(app, [str(argument) for argument in arguments], **options)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.strip().splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "unexpected" not in lines[0]
    return lines[0]
