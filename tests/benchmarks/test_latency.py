"""The latency benchmark on a tiny denoiser: real backends here, clear words about those that aren't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import benchmarks.latency as latency
from benchmarks.latency import measure_latency
from passes.errors import ExportError, UsageError
from slimdiff_fx.runtimes import require
from tests.toy_denoisers import dit

FAST = {"repeats": 2, "warmup": 1, "min_seconds": 0.0}


@pytest.fixture(scope="module")
def denoiser() -> nn.Module:
    return dit(0)


def test_dense_and_slim_in_one_run(denoiser: nn.Module) -> None:
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    result = measure_latency([("toy", denoiser)], backend="ort", keep=0.5, sizes={"batch": 3}, **FAST)
    dense, slim = result["models"]
    assert (dense["name"], slim["name"]) == ("toy", "toy-slim")
    assert dense["time_ratio"] == dense["mac_ratio"] == dense["param_ratio"] == 1
    assert 0 < slim["mac_ratio"] < 1
    assert 0 < slim["param_ratio"] < 1
    assert slim["params"] < dense["params"]
    assert dense["runs"] == slim["runs"] == 2
    assert dense["median_ms"] > 0
    assert result["inputs"]["hidden_states"] == [3, 4, 8, 8]
    assert result["plan"] == {"uniform": 0.5, "seed": 0}
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def test_command_writes_table_and_json(denoiser: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    monkeypatch.setattr(latency, "load_denoiser", lambda name: (denoiser, None))
    app = typer.Typer()
    app.command()(latency.main)
    run = CliRunner().invoke(
        app,
        f"--backend eager --repeats 2 --warmup 1 --min-seconds 0 --output {tmp_path}".split(),
        env={"COLUMNS": "120"},
        catch_exceptions=False,
    )
    assert run.exit_code == 0, run.output
    assert "emoji-slim" in run.output
    assert "MACs ÷ dense" in run.output
    data = json.loads((tmp_path / "latency-eager.json").read_text())
    assert [row["name"] for row in data["models"]] == ["emoji", "emoji-slim"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("backend", ["ort-cuda", "tensorrt"])
def test_missing_hardware_is_named(backend: str) -> None:
    with pytest.raises(ExportError, match=rf"backend {backend}: .*NVIDIA driver"):
        require(backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_hardware_ends_cleanly(capfd: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit) as stopped:
        latency.main([], backend="tensorrt")
    assert stopped.value.exit_code == 1
    printed = capfd.readouterr()
    assert printed.err.startswith("error: backend tensorrt")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_unknown_backend() -> None:
    with pytest.raises(UsageError, match="choose one of eager"):
        require("abacus")
