"""Methods from the command line: no number to set, budgets, options that change how weights are solved for."""

import json
import re

import pytest
import torch
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

import slimdiff_fx
from slimdiff_fx.cli import app
from slimdiff_fx.files.statistics_file import load_statistics
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.prediction_error import measured_error
from slimdiff_fx.pipelines.sampling import Sampling, draw
from slimdiff_fx.saved.folder import load_plan

CALIBRATION = ("--samples", "6", "--batch", "2")


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def statistics(toy_pipeline, folder):
    run("calibrate", toy_pipeline, "-o", folder / "statistics.safetensors", *CALIBRATION)
    return folder / "statistics.safetensors"


@pytest.fixture(scope="module")
def hands_free(toy_pipeline, folder):
    """Slim with no policy at all."""
    printed = run("slim", toy_pipeline, "-o", folder / "hands-free", *CALIBRATION, "--pictures", "2")
    return folder / "hands-free", printed


def test_with_no_number_as_much_goes_as_the_default_error_allows(hands_free):
    out, printed = hands_free
    report = json.loads((out / "report.json").read_text())
    assert report["policy"]["method"] == "best"
    assert report["policy"]["max_error"] == slimdiff_fx.MaxError().error
    assert 0 < report["predicted"]["relative_mse"] <= slimdiff_fx.MaxError().error
    assert report["summary"]["params_kept"] < report["summary"]["params"]
    error = next(line for line in printed.splitlines() if line.startswith("error "))
    assert re.fullmatch(r"error +\d\.\de-\d\d expected, \d\.\de-\d\d measured on 2 pictures, 1\.0e-03 asked", error)


def test_predicted_and_measured_stand_side_by_side(hands_free, toy_pipeline):
    out, _ = hands_free
    report = json.loads((out / "report.json").read_text())
    dense = load_pipeline(str(toy_pipeline))
    slim = DiffusionPipeline.from_pretrained(out)
    with measured_error(dense.pipe, slim.unet) as error:
        draw(dense.pipe, ("mushroom", "watermelon"), 0, dense.sampling)
    assert report["measured"]["relative_mse"] == pytest.approx(error.relative_mse, rel=1e-4)
    # a random denoiser: the order of magnitude is what counts
    assert 0.1 < report["measured"]["relative_mse"] / report["predicted"]["relative_mse"] < 10


def test_measuring_changes_no_picture(toy_pipeline, hands_free):
    pipe = load_pipeline(str(toy_pipeline)).pipe
    sampling = Sampling(steps=2, guidance=3.0)
    plain = draw(pipe, ("rose",), 3, sampling)
    slim = DiffusionPipeline.from_pretrained(hands_free[0]).unet
    with measured_error(pipe, slim):
        watched = draw(pipe, ("rose",), 3, sampling)
    assert plain[0].tobytes() == watched[0].tobytes()


def test_no_moments_are_kept_in_the_saved_folder(hands_free):
    stored = load_statistics(hands_free[0] / "statistics.safetensors").statistics
    assert not stored.moments
    assert not stored.probes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("best", ("--method", "best", "--keep-params", "0.93")),
        ("best-macs", ("--method", "best", "--keep-macs", "0.95")),
        ("slimdiff", ("--method", "slimdiff", "--keep-params", "0.93")),
        ("obs", ("--method", "obs", "--keep-params", "0.93")),
        ("threshold", ("--method", "threshold", "--keep-params", "0.93", "--compensate", "lstsq")),
        ("leverage", ("--criterion", "leverage", "--tau", "0.5", "--compensate", "bias")),
        ("max-error", ("--max-error", "0.01")),
    ],
)
def test_plans_of_every_method_are_carried_out(toy_pipeline, folder, statistics, name, options):
    plan = folder / f"{name}.json"
    run("plan", toy_pipeline, "--statistics", statistics, *options, "-o", plan)
    printed = run("apply", toy_pipeline, "--plan", plan, "-o", folder / name)
    assert "slim equals masked dense" in printed
    read = load_plan(plan)
    assert read.updates
    assert read.predicted["relative_mse"] > 0
    pipe = DiffusionPipeline.from_pretrained(folder / name)
    picture = draw(pipe, ("rose",), 1, Sampling(steps=2, guidance=3.0))[0]
    dense = draw(load_pipeline(str(toy_pipeline)).pipe, ("rose",), 1, Sampling(steps=2, guidance=3.0))[0]
    assert picture.size == dense.size


@pytest.mark.slow
def test_moments_on_disk_give_the_same_model(toy_pipeline, folder, hands_free):
    moments = folder / "moments"
    run("slim", toy_pipeline, "-o", folder / "from-disk", *CALIBRATION, "--pictures", "0", "--moments-folder", moments)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / "from-disk" / weights).read_bytes() == (hands_free[0] / weights).read_bytes()
    assert not list(moments.iterdir())


@pytest.mark.slow
def test_sequential_calibration_solves_anew(toy_pipeline, folder, hands_free):
    run("slim", toy_pipeline, "-o", folder / "sequential", *CALIBRATION, "--pictures", "0", "--sequential", "2")
    plans = [load_plan(each / "unet" / "slim_plan.json") for each in (folder / "sequential", hands_free[0])]
    assert plans[0].policy["sequential"] == 2
    assert plans[0].sites == plans[1].sites
    changed = [name for name, value in plans[0].updates.items() if not torch.equal(value, plans[1].updates[name])]
    assert changed
    assert len(changed) < len(plans[0].updates)


@pytest.mark.slow
def test_timestep_weights_change_what_is_learned(toy_pipeline, folder):
    run("calibrate", toy_pipeline, "-o", folder / "noise.safetensors", *CALIBRATION, "--timestep-weights", "noise")
    statistics = load_statistics(folder / "noise.safetensors").statistics
    assert len(set(statistics.weights)) > 1


@pytest.mark.slow
def test_attention_weights_are_measured_when_asked_for(toy_pipeline, folder):
    measured, plan = folder / "weights.safetensors", folder / "entropy.json"
    run("calibrate", toy_pipeline, "-o", measured, *CALIBRATION, "--no-moments", "--attention-weights")
    run("plan", toy_pipeline, "--statistics", measured, "--criterion", "entropy", "--tau", "0.5", "-o", plan)
    assert load_plan(plan).policy["criterion"]["attention"] == "entropy"
    # in one command the criterion itself asks for them
    out = folder / "by-confidence"
    run("slim", toy_pipeline, "-o", out, *CALIBRATION, "--pictures", "0", "--criterion", "confidence", "--tau", "0.5")
    kept = load_statistics(out / "statistics.safetensors").statistics
    assert any("confidence" in sums for sums in kept.sites.values())


def test_inspect_says_what_moments_will_take(toy_pipeline):
    assert "second moments take" in run("inspect", toy_pipeline)
