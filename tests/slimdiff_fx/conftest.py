"""What the toy pipeline gives, for tests of what goes wrong with it."""

import shutil
from pathlib import Path

import pytest

from slimdiff_fx.cli import app
from slimdiff_fx.commands import calibration_options, export_command
from slimdiff_fx.slimming import job
from tests.failing_command import runner


@pytest.fixture
def pipeline(toy_pipeline, tmp_path):
    """Give a pipeline folder that may be damaged."""
    return Path(shutil.copytree(toy_pipeline, tmp_path / "pipeline"))


@pytest.fixture(scope="session")
def statistics(toy_pipeline, tmp_path_factory):
    """Give statistics of the toy pipeline."""
    file = tmp_path_factory.mktemp("statistics") / "statistics.safetensors"
    result = runner.invoke(app, ["calibrate", str(toy_pipeline), "-o", str(file), "--samples", "2", "--steps", "2"])
    assert result.exit_code == 0, result.output
    return file


@pytest.fixture(scope="session")
def plan(toy_pipeline, statistics):
    """Give a plan of the toy pipeline."""
    file = statistics.with_name("plan.json")
    result = runner.invoke(
        app, ["plan", str(toy_pipeline), "--statistics", str(statistics), "--tau", "0.2", "-o", str(file)]
    )
    assert result.exit_code == 0, result.output
    return file


def never(*_, **__):
    raise AssertionError("the work was begun")


@pytest.fixture
def nothing_is_loaded(monkeypatch, nothing_is_captured):
    for module in (calibration_options, export_command):
        monkeypatch.setattr(module, "load_pipeline", never)


@pytest.fixture
def nothing_is_captured(monkeypatch):
    for module in (job, export_command):
        monkeypatch.setattr(module, "capture_pipeline", never)


@pytest.fixture
def nothing_is_calibrated(monkeypatch):
    monkeypatch.setattr(job, "observe_pipeline", never)
