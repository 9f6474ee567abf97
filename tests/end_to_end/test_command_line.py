"""The commands, one after the other, on a tiny pipeline: what they write, and that stages equal the one call."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from slimdiff_fx.cli import app
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.files.statistics_file import load_statistics
from slimdiff_fx.saved.folder import load_plan

CALIBRATION = ("--samples", "5", "--batch", "2", "--seed", "1")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def run(*arguments, expect=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def slim(toy_pipeline, folder):
    """Slim in one call; give the folder and what was printed."""
    result = run("slim", toy_pipeline, "-o", folder / "slim", *CALIBRATION, "--keep-params", "0.9", "--pictures", "2")
    return folder / "slim", result.stdout


@pytest.fixture(scope="module")
def statistics(toy_pipeline, folder):
    run("calibrate", toy_pipeline, "-o", folder / "statistics.safetensors", *CALIBRATION)
    return folder / "statistics.safetensors"


def test_slim_prints_the_table_and_what_was_proved(slim):
    _, printed = slim
    for text in ("Dense → slim", "mid · 0.0 · attn1", "heads", "neurons", "whole denoiser", "slim equals masked"):
        assert text in printed
    assert "5 samples, " in printed
    assert "6 sites, " in printed
    assert max(map(len, printed.splitlines()[-30:])) <= 80 + len(str(slim[0]))


def test_slim_ends_with_a_verdict_and_the_lines_that_load_it(slim):
    out, printed = slim
    report = json.loads((out / "report.json").read_text())
    labels = [
        "on disk",
        "parameters",
        "multiply-adds",
        "latency",
        "error",
        "pictures",
        "proof",
        "time",
        "page",
        "folder",
    ]
    lines = {label: next(line for line in printed.splitlines() if line.startswith(f"{label} ")) for label in labels}
    assert report["headline"]["bytes_slim"] == (out / WEIGHTS).stat().st_size < report["headline"]["bytes_dense"]
    assert f"{report['pictures']['mean_psnr_db']:.1f} dB" in lines["pictures"]
    dense, ratio = report["call"]["dense_ms"], report["call"]["ratio"]
    assert f"{dense:.1f} → {dense * ratio:.1f} ms a call" in lines["latency"]
    assert report["call"]["rows"] == 2, "guidance's row beside the prompt's"
    assert lines["page"].endswith(str(out / "report.html"))
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    names = {}
    exec(printed[printed.index("  from diffusers import") :].replace("\n  ", "\n").strip(), names)
    assert type(names["pipe"].unet).__name__ == "SlimUNet2DConditionModel"


def test_slim_leaves_a_whole_folder_and_no_checkpoint(slim, folder):
    out, _ = slim
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["params_kept"] <= 0.9 * report["summary"]["params"]
    assert report["calibration"]["samples"] == 5
    assert set(report["seconds"]) == {"capture", "calibrate", "analyze", "rewrite", "validate", "draw"}
    assert report["pictures"]["conditions"] == ["mushroom", "watermelon"]
    assert len(report["pictures"]["psnr_db"]) == 2
    assert "](dense_and_slim.png)" in (out / "README.md").read_text()
    with Image.open(out / "dense_and_slim.png") as sheet:
        assert sheet.width > 600
    assert load_statistics(out / "statistics.safetensors").done == 5
    assert json.loads((out / "analysis.json").read_text())["sweep"]["by"] == "keep_params"
    assert sorted(file.name for file in (out / "pictures").iterdir())[:2] == ["00-dense.png", "00-slim.png"]
    assert not list(folder.glob("*checkpoint*"))
    assert not list(folder.glob("*.calibration.safetensors"))
    assert "_name_or_path" not in (out / "model_index.json").read_text()


def test_weights_that_were_half_precision_are_stored_so_and_load_as_float32(slim):
    out, _ = slim
    assert {values.dtype for values in load_file(out / WEIGHTS).values()} == {torch.float16}
    pipe = DiffusionPipeline.from_pretrained(out)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}


@pytest.mark.slow
def test_stages_one_at_a_time_give_the_same_pipeline(toy_pipeline, folder, slim, statistics):
    out, _ = slim
    printed = run(
        "plan", toy_pipeline, "--statistics", statistics, "--keep-params", "0.9", "-o", folder / "plan.json"
    ).stdout
    assert "whole denoiser" in printed
    run("apply", toy_pipeline, "--plan", folder / "plan.json", "-o", folder / "applied")
    plans = [load_plan(file) for file in (folder / "plan.json", out / "unet/slim_plan.json")]
    assert plans[0].sites == plans[1].sites
    assert (folder / "applied" / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_bits(toy_pipeline, folder, statistics, monkeypatch):
    out, calls = folder / "resumed.safetensors", []

    def interrupt(self, count):
        calls.append(count)
        if len(calls) == 3:  # in the middle of the second batch of two steps
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TerminalListener, "advance", interrupt)
        result = run("calibrate", toy_pipeline, "-o", out, *CALIBRATION, expect=130)
    assert result.stderr.startswith("error: interrupted; ")
    assert "--resume" in result.stderr
    assert not out.exists()
    run("calibrate", toy_pipeline, "-o", out, *CALIBRATION, "--resume")
    assert out.read_bytes() == statistics.read_bytes()
    assert not list(folder.glob("*.checkpoint"))


@pytest.mark.slow
def test_calibration_is_not_lost_when_what_follows_fails(toy_pipeline, tmp_path, monkeypatch):
    arguments = ("slim", toy_pipeline, "-o", tmp_path / "out", *CALIBRATION, "--pictures", "0")
    with monkeypatch.context() as patch:
        patch.setattr("slimdiff_fx.slimming.job.Job.finish", None)
        assert "unexpected TypeError" in run(*arguments, "--tau", "0.1", expect=1).stderr
    assert [file.name for file in tmp_path.iterdir()] == ["out.calibration.safetensors"]
    monkeypatch.setattr("slimdiff_fx.calibration.run.observe_batch", None)  # nothing is left to run
    run(*arguments, "--tau", "0.1", "--resume")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_pictures_with_captions(toy_pipeline, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (80, 60), colour).save(images / f"{colour}.png")
        (images / f"{colour}.txt").write_text(f"{colour} square")
    arguments = ("calibrate", toy_pipeline, "-o", tmp_path / "s", "--images", images, "--samples", "4", "--steps", "3")
    assert "4 samples from 3 pictures" in run(*arguments).stdout
    stored = load_statistics(tmp_path / "s")
    assert stored.settings["source"] == "images"
    assert stored.settings["images"][3] == stored.settings["images"][0]
    assert stored.statistics.samples == 4 * 3 * 2


@pytest.mark.slow
def test_export_to_both_formats(slim, tmp_path):
    out, _ = slim
    printed = run("export", out, "--format", "pt2", "-o", tmp_path / "unet.pt2").stdout
    assert "sizes that it takes: batch: at least 1; height: at least 1; width: at least 1" in printed
    assert "equals torch to" in printed
    assert run("export", out, "--format", "onnx", "-o", tmp_path / "unet.onnx").stdout.count("equals torch to") == 1
    assert (tmp_path / "unet.onnx").is_file()
