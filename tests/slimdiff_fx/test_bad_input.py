"""Every bad input gives one line on stderr, exit code 2 if usage mends it or 1, and nothing half-written."""

import os
import subprocess
import sys

import pytest
import torch

from passes.errors import UsageError
from slimdiff_fx.cli import app
from tests.failing_command import QUICK, only, run, runner


def test_not_a_pipeline_folder(tmp_path):
    line = run("slim", tmp_path, "-o", tmp_path / "out", *QUICK, expect=2)
    assert str(tmp_path) in line
    assert "model_index.json" in line
    assert only(tmp_path)


def test_no_such_folder(tmp_path):
    line = run("inspect", tmp_path / "none", expect=2)
    assert "no folder here and no hub id" in line


def test_hub_id_with_no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = run("inspect", "nobody/no-such-pipeline", expect=2)
    assert "'nobody/no-such-pipeline'" in line
    assert "network" in line


def test_no_prompts(pipeline, tmp_path):
    (pipeline / "captions.json").unlink()
    line = run("slim", pipeline, "-o", tmp_path / "out", *QUICK, expect=2)
    assert "give --prompts or --images" in line
    assert only(tmp_path, "pipeline")


def test_empty_prompt_file(toy_pipeline, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n")
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", "--prompts", prompts, *QUICK, expect=2)
    assert f"{prompts} is empty" in line
    assert only(tmp_path, "prompts.txt")


def test_prompts_and_images_together(toy_pipeline, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a")
    line = run(
        "slim", toy_pipeline, "-o", tmp_path / "out", "--prompts", prompts, "--images", tmp_path, *QUICK, expect=2
    )
    assert "give one of them" in line


def test_more_samples_than_prompts_cycle_and_say_so(toy_pipeline, tmp_path, monkeypatch):
    def stop(pipe):
        raise UsageError("stopped before the capture")

    monkeypatch.setattr("slimdiff_fx.slimming.job.capture_pipeline", stop)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("noto rose\nnoto pizza\n")
    arguments = ("calibrate", toy_pipeline, "-o", tmp_path / "s", "--prompts", prompts, "--samples", "3", "--resume")
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert "3 samples from 2 prompts" in result.stdout
    assert f"there is no checkpoint at {tmp_path / 's.checkpoint'}: starting anew" in " ".join(result.stdout.split())
    assert result.stderr == "error: stopped before the capture\n"


@pytest.mark.parametrize("tau", ["-0.1", "1.5", "nan"])
def test_tau_out_of_range(toy_pipeline, tmp_path, tau):
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", "--tau", tau, *QUICK, expect=2)
    assert "[0, 1]" in line
    assert only(tmp_path)


@pytest.mark.parametrize("other", [("--keep-params", "0.9"), ("--keep-macs", "0.9")])
def test_tau_and_budget(toy_pipeline, tmp_path, other):
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", "--tau", "0.1", *other, *QUICK, expect=2)
    assert f"--tau and {other[0]}" in line


def test_budget_that_cant_be_met_says_the_least(toy_pipeline, tmp_path, statistics):
    line = run(
        "plan",
        toy_pipeline,
        "--statistics",
        statistics,
        "--keep-params",
        "0.01",
        "-o",
        tmp_path / "plan.json",
        expect=2,
    )
    assert "ask for 0." in line
    assert only(tmp_path)


@pytest.mark.parametrize("option", [("--samples", "0"), ("--batch", "0"), ("--steps", "0"), ("--observe-steps", "0")])
def test_counts_below_one(toy_pipeline, tmp_path, option):
    line = run("calibrate", toy_pipeline, "-o", tmp_path / "s", *option, expect=2)
    assert f"{option[0]} is 0" in line
    assert only(tmp_path)


def test_unknown_criterion(toy_pipeline, tmp_path, statistics):
    line = run(
        "plan",
        toy_pipeline,
        "--statistics",
        statistics,
        "--criterion",
        "wisdom",
        "-o",
        tmp_path / "plan.json",
        expect=2,
    )
    assert "unknown criterion 'wisdom'" in line
    assert "mean_abs" in line


def test_criterion_that_was_not_measured(toy_pipeline, tmp_path, statistics):
    options = ("--statistics", statistics, "--criterion", "entropy", "-o", tmp_path / "plan.json")
    line = run("plan", toy_pipeline, *options, expect=2)
    assert "the statistics lack attention's entropy" in line
    assert "--attention-weights" in line
    assert not (tmp_path / "plan.json").exists()


def test_unknown_device(toy_pipeline):
    line = run("inspect", toy_pipeline, "--device", "toaster", expect=2)
    assert "toaster" in line
    assert "--device cpu" in line


def test_occupied_output_is_refused_before_any_work(toy_pipeline, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for command in (
        ("slim", toy_pipeline, "-o", tmp_path, *QUICK),
        ("apply", toy_pipeline, "--plan", "none.json", "-o", tmp_path),
        ("calibrate", toy_pipeline, "-o", tmp_path / "mine.txt"),
    ):
        line = run(*command, expect=2)
        assert "--overwrite" in line
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert only(tmp_path, "mine.txt")


def test_debug_shows_the_traceback(tmp_path):
    result = runner.invoke(app, ["inspect", str(tmp_path), "--debug"])
    assert type(result.exception).__name__ == "CheckpointError"


def test_an_unforeseen_error_is_one_line_too(toy_pipeline, monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("slimdiff_fx.commands.calibration_options.load_pipeline", fails)
    line = run("inspect", toy_pipeline, expect=1)
    assert "unexpected ZeroDivisionError: a bug" in line
    assert "--debug" in line


@pytest.mark.slow
def test_captured_operator_that_nobody_handles(pipeline, monkeypatch):
    """An operator inside attention that no pass knows: the site is named with the reason, and left whole."""

    def roll_heads(query, *args, **kwargs):
        return attention(query.roll(1, dims=1), *args, **kwargs)

    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", roll_heads)
    result = runner.invoke(app, ["inspect", str(pipeline)])
    assert result.exit_code == 0, result.output
    assert "0 attention" in result.stdout
    assert "roll" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "obs"), "say how much"),
        (("--method", "obs", "--max-error", "0.1"), "predicts nothing"),
        (("--method", "best", "--tau", "0.1"), "is for --method threshold"),
        (("--method", "slimdiff", "--keep-params", "0.9", "--compensate", "lstsq"), "is for --method threshold"),
        (("--keep-params", "0.9", "--max-error", "0.1"), "--keep-params and --max-error are given together"),
        (("--max-error", "0"), "max-error"),
        (("--max-error", "nan"), "max-error"),
        (("--tau", "0.1", "--sequential", "2"), "--compensate"),
    ],
)
def test_methods_that_contradict_their_options(toy_pipeline, tmp_path, options, message):
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", *options, *QUICK, expect=2)
    assert message in line
    assert only(tmp_path)


def test_more_sequential_groups_than_sites(toy_pipeline, tmp_path):
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", "--sequential", "99", *QUICK, expect=2)
    assert "--sequential is 99" in line
    assert not (tmp_path / "out").exists()


def test_methods_without_second_moments(toy_pipeline, tmp_path):
    file = tmp_path / "statistics.safetensors"
    arguments = ["calibrate", toy_pipeline, "-o", file, "--samples", "2", "--steps", "1", "--no-moments"]
    assert runner.invoke(app, [str(each) for each in arguments]).exit_code == 0
    line = run("plan", toy_pipeline, "--statistics", file, "-o", tmp_path / "plan.json", expect=2)
    assert "has no second moments" in line
    assert "--method threshold" in line


def test_a_moments_folder_that_is_a_file(toy_pipeline, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    line = run("slim", toy_pipeline, "-o", tmp_path / "out", "--moments-folder", file, *QUICK, expect=2)
    assert "second moments can't be kept" in line


@pytest.mark.parametrize("option", [("--opset", "23"), ("--target", "onnxruntime")])
def test_options_of_onnx_with_another_format(tmp_path, option):
    line = run("export", "emoji", "--format", "pt2", *option, "-o", tmp_path / "unet.pt2", expect=2)
    assert "--opset and --target are of ONNX" in line


def test_a_terminal_that_knows_ascii_alone_is_told_all_the_same():
    """Tables hold other characters, and a path may hold any."""
    script = (
        "from slimdiff_fx.cli import _console\nconsole = _console()\nconsole.print('1 → 2: caf\\udce9', soft_wrap=True)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert done.stdout == b"1 \\u2192 2: caf\\udce9\n"
