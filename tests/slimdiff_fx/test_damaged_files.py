"""Damaged and foreign files give one line on stderr and exit code 1; what was there before stays."""

import json
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimdiff_fx.cli import app
from slimdiff_fx.files.manifest import MANIFEST_FILE
from slimdiff_fx.files.own_folder import own_folder
from tests.failing_command import QUICK, only, run, runner


@contextmanager
def unet_weights(pipeline):
    """Give the UNet's weights to be changed, and write them back."""
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    yield weights
    save_file(weights, file, {"format": "pt"})


def test_plan_of_another_model(pipeline, tmp_path, plan):
    with unet_weights(pipeline) as weights:
        weights.update({name: values * 1.5 for name, values in weights.items()})
    line = run("apply", pipeline, "--plan", plan, "-o", tmp_path / "out", expect=2)
    assert "another" in line or "differ" in line
    assert only(tmp_path, "pipeline")


def test_statistics_of_another_model(pipeline, tmp_path, statistics):
    with unet_weights(pipeline) as weights:
        weights.update({name: values * 1.5 for name, values in weights.items()})
    line = run("plan", pipeline, "--statistics", statistics, "-o", tmp_path / "plan.json", expect=2)
    assert "not of this model" in line
    assert only(tmp_path, "pipeline")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_truncated_safetensors(pipeline, component):
    file = next((pipeline / component).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    line = run("inspect", pipeline, expect=2)
    assert str(file) in line
    assert "truncated" in line


def test_safetensors_of_other_shapes(pipeline):
    with unet_weights(pipeline) as weights:
        weights["conv_in.weight"] = weights["conv_in.weight"][:-1].clone()
    line = run("inspect", pipeline, expect=2)
    assert str(pipeline) in line
    assert "conv_in.weight" in line


def test_safetensors_that_lack_a_weight(pipeline):
    with unet_weights(pipeline) as weights:
        del weights["conv_in.weight"]
    line = run("inspect", pipeline, expect=2)
    assert "conv_in.weight" in line


def test_garbled_configuration(pipeline):
    (pipeline / "unet" / "config.json").write_text("{")
    line = run("inspect", pipeline, expect=2)
    assert "config.json is no valid JSON" in line


@pytest.mark.parametrize("change", ["truncate", "kept", "site", "format", "empty"])
def test_tampered_plan(toy_pipeline, tmp_path, plan, change):
    data = json.loads(plan.read_text())
    name = next(iter(data["sites"]))
    if change == "kept":
        data["sites"][name]["kept"] = [0, 10**6]
    elif change == "site":
        data["sites"]["nowhere"] = data["sites"].pop(name)
    elif change == "format":
        data["format"] = 99
    elif change == "empty":
        data["sites"][name]["kept"] = []
    text = json.dumps(data)
    (tmp_path / "plan.json").write_text(text[:-20] if change == "truncate" else text)
    run("apply", toy_pipeline, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out", expect=2)
    assert only(tmp_path, "plan.json")


def test_truncated_statistics(toy_pipeline, tmp_path, statistics):
    file = tmp_path / "statistics.safetensors"
    file.write_bytes(statistics.read_bytes()[:-10])
    line = run("plan", toy_pipeline, "--statistics", file, "-o", tmp_path / "plan.json", expect=2)
    assert str(file) in line
    assert only(tmp_path, "statistics.safetensors")


def test_nan_weights(pipeline, tmp_path):
    with unet_weights(pipeline) as weights:
        weights["conv_out.weight"][0, 0, 0, 0] = torch.nan
    line = run("slim", pipeline, "-o", tmp_path / "out", *QUICK, expect=2)
    assert "NaN" in line
    assert "conv_out.weight" in line
    assert only(tmp_path, "pipeline")


OVERWRITE = """
    import resource, signal, sys
    from slimdiff_fx.cli import app
    from slimdiff_fx.other_libraries import quiet_logging
    with quiet_logging():  # as the command line does: torchao logs when diffusers is imported
        from slimdiff_fx.saved import folder as checkpoint
    {before}
    app(["apply", {model!r}, "--plan", {plan!r}, "-o", {out!r}, "--overwrite"])
"""


def overwrite_in_new_process(model, plan, out, before):
    script = textwrap.dedent(OVERWRITE.format(before=before, model=str(model), plan=str(plan), out=str(out)))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_full_disk_leaves_the_old_folder(toy_pipeline, tmp_path, plan):
    out = tmp_path / "out"
    with own_folder(out, overwrite=False) as partial:
        (partial / "old.txt").write_text("old")
    # A limit on file sizes fails a write in the middle, as a full disk does.
    done = overwrite_in_new_process(
        toy_pipeline, plan, out, "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))"
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: could not write")
    assert len(done.stderr.splitlines()) == 1
    assert only(out, "old.txt", MANIFEST_FILE)
    assert only(tmp_path, "out")


@pytest.mark.slow
def test_kill_in_mid_save_leaves_the_old_folder(toy_pipeline, tmp_path, plan):
    out = tmp_path / "out"
    with own_folder(out, overwrite=False) as partial:
        (partial / "old.txt").write_text("old")
    before = (
        "import os; save = checkpoint.save_pipeline; "
        "checkpoint.save_pipeline = lambda *arguments: (save(*arguments), os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = overwrite_in_new_process(toy_pipeline, plan, out, before)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert only(out, "old.txt", MANIFEST_FILE)


def test_a_plan_that_lost_its_weights(toy_pipeline, statistics, tmp_path):
    plan = tmp_path / "plan.json"
    arguments = ["plan", toy_pipeline, "--statistics", statistics, "--keep-params", "0.95", "-o", plan]
    assert runner.invoke(app, [str(each) for each in arguments]).exit_code == 0
    plan.with_suffix(".safetensors").unlink()
    line = run("apply", toy_pipeline, "--plan", plan, "-o", tmp_path / "out", expect=2)
    assert "keep the .safetensors file with its plan" in line
    assert not (tmp_path / "out").exists()
