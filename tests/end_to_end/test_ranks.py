"""Calibration shared between processes, by torchrun on the command line: equal to one process's, whatever is lost."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from slimdiff_fx.cli import app
from slimdiff_fx.files.statistics_file import load_statistics
from slimdiff_fx.saved.folder import load_plan
from tests.slimdiff_fx.calibration.test_rank_sums import assert_equal_to_rounding
from tests.torchrun import torchrun

pytestmark = pytest.mark.slow

# 25 batches of two steps: more calls than are kept as probes. The last batch has one sample.
OPTIONS = ("--samples", "49", "--batch", "2", "--seed", "1")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SCRIPT = """
import sys
from pathlib import Path

import slimdiff_fx
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.calibration.ranks import joined_ranks

folder = Path(sys.argv[2])
with joined_ranks("cpu") as ranks:
    pipe = load_pipeline(sys.argv[1], device=ranks.device).pipe
    result = slimdiff_fx.slim(pipe, prompts=["rose", "pizza"], samples=4, batch=2, steps=2, ranks=ranks)
(folder / f"{ranks.rank}.json").write_text(result.plan.to_json())
if ranks.rank == 0:
    result.save_pretrained(folder / "slim")
"""


def alone(*arguments):
    """Run a command in this process, with as many threads as a rank has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def one(toy_pipeline, folder):
    alone("calibrate", toy_pipeline, "-o", folder / "one.safetensors", *OPTIONS)
    return load_statistics(folder / "one.safetensors")


@pytest.fixture(scope="module")
def three(toy_pipeline, folder):
    out = folder / "three.safetensors"
    done = torchrun(3, "-m", "slimdiff_fx", "calibrate", toy_pipeline, "-o", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("statistics of 49 samples") == 1
    assert done.stdout.count("capture ") == 1
    return out


def test_three_ranks_see_what_one_process_sees(one, three):
    found = load_statistics(three)
    assert (found.done, found.total) == (49, 49)
    assert found.settings == {**one.settings, "ranks": 3}
    assert_equal_to_rounding(one.statistics, found.statistics)
    assert not list(three.parent.glob("*checkpoint*"))


def test_pictures_sampled_steps_and_moments_on_disk_are_shared_too(toy_pipeline, tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"picture {number}")
    given = ("--images", images, "--samples", "7", "--batch", "2", "--steps", "5", "--observe-steps", "2")
    alone("calibrate", toy_pipeline, "-o", tmp_path / "one.safetensors", *given)
    moments = tmp_path / "moments"  # nameless files, of each rank its own
    given = ("-o", tmp_path / "two.safetensors", *given, "--moments-folder", moments)
    done = torchrun(2, "-m", "slimdiff_fx", "calibrate", toy_pipeline, *given)
    assert done.returncode == 0, done.stderr
    assert not list(moments.iterdir())
    found = [load_statistics(tmp_path / f"{name}.safetensors").statistics for name in ("one", "two")]
    assert found[0].calls == 4 * 2
    assert_equal_to_rounding(*found)


@pytest.mark.parametrize("pause", ["0.5", "0"], ids=["others_at_work", "others_waiting"])
def test_a_killed_rank_ends_the_run_and_resuming_gives_the_same_bits(toy_pipeline, tmp_path, three, pause):
    out = tmp_path / "three.safetensors"
    given = ("calibrate", toy_pipeline, "-o", out, *OPTIONS)
    killed = torchrun(3, "tests/dying_rank.py", 1, 3, *given, PAUSE=pause)
    assert killed.returncode != 0
    errors = [line for line in killed.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: rank 1 was lost; the same command with --resume goes on from what the ranks had written"]
    assert not out.exists()
    # a rank that is killed while it writes leaves a hidden part of a file behind
    done = {file.name: load_statistics(file).done for file in tmp_path.iterdir() if not file.name.startswith(".")}
    # on a busy machine the others may not have finished a batch by then: they start anew
    assert set(done) <= {f"three.safetensors.rank{rank}of3.checkpoint" for rank in range(3)}
    assert done["three.safetensors.rank1of3.checkpoint"] == 3 * 2
    assert min(done.values()) > 0
    refused = CliRunner().invoke(app, [*map(str, given), "--resume"])
    assert refused.exit_code == 2
    assert "were written by 3 ranks, and this run has 1" in refused.stderr
    resumed = torchrun(3, "-m", "slimdiff_fx", *given, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert out.read_bytes() == three.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


def test_slim_goes_on_in_rank_0(toy_pipeline, tmp_path):
    given = ("--samples", "8", "--batch", "2", "--keep-params", "0.9", "--pictures", "0", "--sequential", "2")
    alone("slim", toy_pipeline, "-o", tmp_path / "one", *given)
    done = torchrun(2, "-m", "slimdiff_fx", "slim", toy_pipeline, "-o", tmp_path / "two", *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("slim equals masked dense") == 1
    one, two = (load_plan(tmp_path / name / "unet/slim_plan.json") for name in ("one", "two"))
    assert {name: site.kept for name, site in one.sites.items()} == {
        name: site.kept for name, site in two.sites.items()
    }
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("one", "two")]
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, rtol=1e-4, atol=1e-5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


def test_a_script_gets_the_same_plan_on_every_rank(toy_pipeline, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(2, script, toy_pipeline, tmp_path)
    assert done.returncode == 0, done.stderr
    plans = [(tmp_path / f"{rank}.json").read_bytes() for rank in range(2)]
    assert plans[0] == plans[1]
    assert (tmp_path / "slim" / WEIGHTS).is_file()


def test_an_error_of_all_ranks_is_told_once(toy_pipeline, tmp_path):
    (tmp_path / "there.safetensors").touch()
    done = torchrun(2, "-m", "slimdiff_fx", "calibrate", toy_pipeline, "-o", tmp_path / "there.safetensors", *OPTIONS)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "choose another output" in done.stderr
