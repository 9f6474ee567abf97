"""A budget of latency from the command line and from Python, on a clock that counts multiply-adds."""

import json

import pytest
from typer.testing import CliRunner

import slimdiff_fx
from passes.errors import ExportError
from slimdiff_fx.cli import app
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.saved.folder import load_plan
from tests.synthetic_bench import pretend

CALIBRATION = ("--samples", "4", "--batch", "2")


def run(*arguments, expect=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return result.output


@pytest.fixture
def clock(monkeypatch, tmp_path):
    monkeypatch.setenv("SLIMDIFF_FX_LATENCY_CACHE", str(tmp_path / "cache"))
    return pretend(monkeypatch)


def test_slim_meets_the_latency_and_reports_it(toy_pipeline, tmp_path, clock):
    out = tmp_path / "slim"
    options = ("--keep-latency", 0.9, "--backend", "eager", "--align", 8, "--pictures", 0)
    printed = run("slim", toy_pipeline, "-o", out, *CALIBRATION, *options)
    report = json.loads((out / "report.json").read_text())
    latency = report["latency"]
    assert latency["backend"] == "eager"
    assert latency["expected"] <= 0.9
    assert latency["measured"] == pytest.approx(latency["expected"], abs=1e-4)
    assert latency["slim_ms"] < latency["dense_ms"]
    assert f"{latency['expected']:.3f} of the dense one expected, {latency['measured']:.3f} measured" in printed
    assert report["policy"]["budget"] == {"latency": 0.9}
    assert report["policy"]["align"] == 8
    cost = report["predicted"]["cost"]
    assert cost["of"] == "latency"
    assert cost["inputs"][0] == [2, 16, 8, 8]  # guidance makes two of one
    for site in load_plan(out / "unet" / "slim_plan.json").sites.values():
        assert len(site.kept) == site.units or len(site.kept) % 8 == 0


@pytest.mark.slow
def test_plan_times_the_sizes_that_are_asked_for(toy_pipeline, tmp_path, clock):
    statistics, plan = tmp_path / "statistics.safetensors", tmp_path / "plan.json"
    run("calibrate", toy_pipeline, "-o", statistics, *CALIBRATION)
    sizes = ("--latency-batch", 3, "--latency-height", 16, "--latency-width", 8, "--latency-tokens", 9)
    options = ("--keep-latency", 0.9, "--backend", "eager", *sizes, "--latency-threads", 1)
    printed = run("plan", toy_pipeline, "--statistics", statistics, "-o", plan, *options)
    assert "expected latency: 0.8" in printed or "expected latency: 0.9" in printed
    cost = load_plan(plan).predicted["cost"]
    assert (cost["inputs"][0], cost["inputs"][2][1], cost["threads"]) == ([3, 16, 16, 8], 9, 1)


@pytest.mark.slow
def test_one_call_gives_the_same(toy_pipeline, tmp_path, clock):
    pipe = load_pipeline(str(toy_pipeline)).pipe
    policy = slimdiff_fx.KeepLatency(0.9, "eager", cache=tmp_path)
    prompts = ["red apple", "cat face"]
    result = slimdiff_fx.slim(pipe, prompts=prompts, samples=4, steps=2, batch=2, policy=policy)
    assert result.latency.expected <= 0.9
    assert result.latency.measured == pytest.approx(result.latency.expected, abs=1e-4)
    assert any(each.name == "half" for each in clock)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "ort"), "give --keep-latency with it"),
        (("--latency-batch", 4), "--latency-batch says what to time"),
        (("--keep-latency", 0.9, "--backend", "abacus"), "no backend 'abacus'"),
        (("--keep-latency", 0.9, "--keep-macs", 0.9), "given together"),
        (("--keep-latency", 1.2), "--keep-latency is 1.2"),
        (("--keep-latency", 0.9, "--latency-batch", 0), "--latency-batch is 0"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(options, message, toy_pipeline, tmp_path):
    printed = run("slim", toy_pipeline, "-o", tmp_path / "slim", *options, expect=2)
    assert message in printed
    assert printed.count("\n") == 1


def test_a_runtime_that_is_not_there_is_named_before_calibration(toy_pipeline, tmp_path, monkeypatch):
    def missing():
        raise ExportError("backend eager: no abacus")

    from dataclasses import replace

    from slimdiff_fx.timing import runtimes

    table = {**runtimes.RUNTIMES, "eager": replace(runtimes.RUNTIMES["eager"], require=missing)}
    monkeypatch.setattr(runtimes, "RUNTIMES", table)
    options = ("--keep-latency", 0.9, "--backend", "eager")
    printed = run("slim", toy_pipeline, "-o", tmp_path / "slim", *options, expect=1)
    assert "no abacus" in printed
    assert "calibrate" not in printed
