"""The latency benchmark on a tiny denoiser: real backends here, clear words about those that aren't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import typer
from diffusers import ModelMixin
from typer.testing import CliRunner

from benchmarks import latency, race
from benchmarks.latency import measure_latency
from benchmarks.race import Race
from passes.errors import ExportError, UsageError
from slimdiff_fx.timing.bench import Bench
from slimdiff_fx.timing.interleave import Timing
from slimdiff_fx.timing.runtimes import require
from tests.synthetic_bench import pretend
from tests.toy_denoisers import dit

FAST = ("--repeats", "2", "--warmup", "1", "--min-seconds", "0")


@pytest.fixture(scope="module")
def denoiser() -> ModelMixin:
    return dit(0)


@pytest.mark.slow
def test_dense_and_slim_in_one_run(denoiser: ModelMixin) -> None:
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    race = Race("ort", 1, repeats=2, warmup=1, min_seconds=0)
    sizes: dict[str, int | None] = {"batch": 3}
    result = measure_latency("toy", denoiser, race, sizes=sizes, removed=(0.2, 0.5), beside=[("twin", denoiser)])
    dense, fifth, half, twin = result["models"]
    assert (dense["name"], twin["name"]) == ("dense", "twin")
    assert dense["params"] > fifth["params"] > half["params"]
    assert twin["mac_ratio"] == twin["param_ratio"] == 1
    for row in (fifth, half, twin):
        assert row["realized"] == pytest.approx(row["mac_ratio"] / row["time_ratio"], rel=1e-3)
        assert row["runs"] == 2
        assert row["dense_ms"] > 0
    for row, removed in ((fifth, 0.2), (half, 0.5)):
        gone = (dense["params"] - row["params"]) / result["site_params"]
        assert removed <= gone < removed + 0.1
    assert result["inputs"]["hidden_states"] == [3, 4, 8, 8]
    assert result["clock"] == "processor"
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def test_one_is_planned_for_a_latency(denoiser: ModelMixin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(race, "prepare", lambda backend, contestant, *_: Bench.ready(cast("Bench", None), contestant))
    monkeypatch.setattr(
        Race, "_time", lambda race, forwards: {name: Timing((each.seconds,)) for name, each in forwards.items()}
    )
    brief = Race("eager", 1, repeats=2, warmup=1, min_seconds=0)
    sizes: dict[str, int | None] = {"batch": 2}
    given: Any = {"sizes": sizes, "removed": (), "cache": tmp_path}
    result = measure_latency("toy", denoiser, brief, keep_latency=0.9, **given)
    _, row = result["models"]
    assert 0.85 < row["time_ratio"] <= 0.9
    expected, measured = result["planned"]["tries"][-1]  # timed before the race, as `slim` does
    assert measured == pytest.approx(row["time_ratio"], abs=0.01)
    assert measured == pytest.approx(expected, rel=0.02)
    with pytest.raises(UsageError, match=r"no plan has 1% of the latency on eager: .* is left of toy"):
        measure_latency("toy", denoiser, brief, keep_latency=0.01, **given)
    with pytest.raises(UsageError, match="nothing to compare"):
        measure_latency("toy", denoiser, brief, **given)


def test_command_writes_table_and_json(denoiser: ModelMixin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "load_denoiser", lambda name, backend: (denoiser, None))
    app = typer.Typer()
    app.command()(latency.main)
    given = ("--backend", "eager", "--keep-latency", "1", "--removed", "0.3", "--align", "4", "--output", str(tmp_path))
    run = CliRunner().invoke(app, [*given, *FAST], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert "−30% of the sites" in run.output
    assert "realized ÷ predicted" in run.output
    data = json.loads((tmp_path / "latency-emoji-eager-align-4.json").read_text())
    assert [row["name"] for row in data["models"]] == ["dense", "−30% of the sites"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("backend", ["ort-cuda", "tensorrt"])
def test_missing_hardware_is_named(backend: str) -> None:
    with pytest.raises(ExportError, match=rf"backend {backend}: .*NVIDIA driver"):
        require(backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_hardware_ends_cleanly(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        latency.main(["emoji"], backend="tensorrt")
    assert stopped.value.exit_code == 1
    printed = capfd.readouterr()
    assert printed.err.startswith("error: backend tensorrt")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_unknown_backend() -> None:
    with pytest.raises(UsageError, match="choose one of eager"):
        require("abacus")
