"""Hostile and careless inputs: each is refused in one line that helps, before anything slow is done."""

from __future__ import annotations

import math
import re
import shutil
import zlib

import pytest
from PIL import Image

import slimdiff_fx
from passes.errors import UsageError
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.slimming import job
from tests import picture_pipelines as toys
from tests.failing_command import refused

BEYOND = str(2**63)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("command", ["slim", "calibrate"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *((option, "0", f"{option} is 0") for option in ("--samples", "--steps", "--observe-steps", "--batch")),
        *((option, "-3", f"{option} is -3") for option in ("--samples", "--steps", "--observe-steps", "--batch")),
        *(
            (option, BEYOND, f"{option} doesn't fit into 64 bits")
            for option in ("--samples", "--steps", "--observe-steps", "--batch", "--seed")
        ),
        ("--seed", str(-(2**63) - 1), "--seed doesn't fit"),
        ("--guidance", "nan", "--guidance is nan"),
        ("--guidance", "inf", "--guidance is inf"),
        ("--guidance", "-1", "--guidance is -1"),
    ],
)
def test_numbers_of_a_calibration(tmp_path, command, option, value, message):
    assert message in refused(command, "emoji", "-o", tmp_path / "out", option, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ((option, value), f"{option.removeprefix('--')} is {value}")
            for option in ("--keep-params", "--keep-macs", "--keep-latency", "--max-error", "--tau")
            for value in ("nan", "inf", "-inf", "-0.5")
        ),
        (("--keep-params", "1.5"), "--keep-params is 1.5; it must be above 0 and at most 1"),
        (("--keep-latency", "0.9", "--latency-batch", "-1"), "--latency-batch is -1"),
        (("--keep-latency", "0.9", "--latency-threads", "1000000000"), "threads is 1000000000; give at most 1024"),
        (("--keep-latency", "0.9", "--latency-height", BEYOND), "--latency-height doesn't fit into 64 bits"),
        (("--sequential", "1"), "--sequential is 1; give at least 2"),
        (("--sequential", "-2"), "--sequential is -2"),
        (("--sequential", BEYOND), "--sequential doesn't fit"),
        (("--pictures", "-1"), "--pictures is -1; give at least 0"),
        (("--pictures", BEYOND), "--pictures doesn't fit"),
        (("--sweep", "2", "--pictures", "0"), "--sweep measures while pictures are drawn"),
        (("--criterion", "beauty"), "unknown criterion 'beauty'"),
    ],
)
def test_numbers_of_a_plan(tmp_path, options, message):
    assert message in refused("slim", "emoji", "-o", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("option", ["--samples", "--steps", "--seed"])
def test_numbers_of_an_export(tmp_path, option):
    arguments = ("export", "emoji", "--format", "onnx", "--int8", "static", "-o", tmp_path / "unet.onnx")
    assert f"{option} doesn't fit into 64 bits" in refused(*arguments, option, BEYOND)


@pytest.mark.usefixtures("nothing_is_captured")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"samples": 0}, "`samples` is 0"),
        ({"samples": 2.5}, "`samples` is 2.5; give a whole number"),
        ({"samples": True}, "`samples` is True"),
        ({"seed": 2**64}, "`seed` doesn't fit"),
        ({"seed": "1"}, "`seed` is '1'"),
        ({"batch": -1}, "`batch` is -1"),
        ({"steps": 0}, "`steps` is 0"),
        ({"steps": 1001}, "`steps` is 1001, and .* has 1000 timesteps; give at most 1000"),
        ({"observe_steps": 0}, "`observe_steps` is 0"),
        ({"guidance": math.nan}, "`guidance` is nan"),
        ({"guidance": "7"}, "`guidance` is 7; give a finite number"),
        ({"timestep_weights": [1.0, math.nan] + [1.0] * 8}, "finite numbers"),
        ({"timestep_weights": [math.inf] * 10}, "finite numbers"),
        ({"timestep_weights": ["a"] * 10}, "finite numbers"),
        ({"sequential": 1}, "`sequential` is 1"),
        ({"policy": 0.5}, r"`policy` is 0\.5; give a policy, such as slimdiff_fx\.KeepParams\(0\.5\)"),
        ({"criterion": "beauty"}, "unknown criterion"),
        ({"method": "threshold", "compensation": "prayer"}, "unknown compensation"),
        ({"calibrate_on": "noise"}, "there are trajectory and pictures"),
        ({"prompts": ["rose", 3]}, "prompt 1 is 3, a int; give strings"),
        ({"prompts": ["rose\0"]}, "a NUL or half a character"),
        ({"prompts": []}, "there are no prompts"),
    ],
)
def test_arguments_of_slim(options, error):
    given = {"prompts": ["rose"], "samples": 1, "steps": 2, **options}
    with pytest.raises(UsageError, match=error):
        slimdiff_fx.slim(toys.text_to_image(), **given)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, "0.5", None, True])
@pytest.mark.parametrize("policy", [slimdiff_fx.KeepParams, slimdiff_fx.KeepMacs, slimdiff_fx.MaxError, KeepLatency])
def test_policies_of_no_number(policy, value):
    with pytest.raises(UsageError, match=rf" is {value!r}; it must be"):
        policy(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.5", None])
def test_thresholds_of_no_number(value):
    with pytest.raises(UsageError, match=rf"`Threshold` is {value!r}; it must be in"):
        slimdiff_fx.Threshold(value)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9\n", "line 1: byte 3 is not UTF-8"),
        (b"[" * 100_000, "nested or long beyond reason"),
        (b'"a"', "is no JSON list of strings"),
    ],
)
def test_prompt_files(tmp_path, content, message):
    file = tmp_path / "prompts.json"
    file.write_bytes(content)
    line = refused("slim", "emoji", "-o", tmp_path / "out", "--prompts", file)
    assert f"{file}" in line
    assert message in line


@pytest.mark.usefixtures("nothing_is_loaded")
def test_standard_input(tmp_path):
    arguments = ("slim", "emoji", "-o", tmp_path / "out", "--prompts", "-")
    assert "prompt file - is empty" in refused(*arguments, input="\n\n")
    assert "prompt file -, line 2: no valid JSON" in refused(*arguments, input='{"text": "a"}\n{"text": \n')


def test_standard_input_is_calibrated_on(toy_pipeline, tmp_path, monkeypatch):
    seen = []

    def stop(pipe, samples, settings):
        seen.extend(sample.condition for sample in samples)
        raise UsageError("enough")

    monkeypatch.setattr(job, "rehearse", stop)
    arguments = ("calibrate", toy_pipeline, "-o", tmp_path / "s", "--prompts", "-", "--samples", "2")
    assert "enough" in refused(*arguments, input='["a rose", "a cat"]')
    assert sorted(seen) == ["a cat", "a rose"]


@pytest.mark.usefixtures("nothing_is_captured")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "1001"), "--steps is 1001, and"),
        (("--steps", "1000000000000"), "give at most 1000"),
        (("--device", "meta"), "device 'meta' holds no values"),
        (("--device", "cuda:1:2"), "try --device cpu"),
        (("--device", "lazy"), "try --device cpu"),
    ],
)
def test_what_the_pipeline_decides(toy_pipeline, tmp_path, options, message):
    assert message in refused("slim", toy_pipeline, "-o", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def no_caption(folder):
    (folder / "1.txt").unlink()


def caption_of_bytes(folder):
    (folder / "1.txt").write_bytes(b"caf\xe9")


def cut_off(folder):
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[: len(data) // 2])


def text(folder):
    (folder / "1.png").write_text("no picture")


def bomb(folder):
    # The header alone says 60,000 by 60,000 pixels.
    data = bytearray((folder / "1.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (folder / "1.png").write_bytes(data)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.usefixtures("nothing_is_captured")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_caption, "1.png has no caption"),
        (caption_of_bytes, "1.txt, line 1: byte 3 is not UTF-8"),
        (cut_off, "1.png can't be read as a picture"),
        (text, "1.png can't be read as a picture"),
        (bomb, "1.png can't be read as a picture"),
        (empty, "holds no picture"),
        (shutil.rmtree, "doesn't exist"),
    ],
)
def test_pictures(toy_pipeline, tmp_path, spoil, message):
    folder = toys.write_pictures(tmp_path / "pictures", count=3)
    spoil(folder)
    line = refused("slim", toy_pipeline, "-o", tmp_path / "out", "--images", folder, "--samples", "3")
    assert message in line
    assert str(folder) in line


@pytest.mark.parametrize(
    ("content", "message"),
    [("[" * 100_000, "recursion|nested"), ("{", "no valid JSON"), ('{"format": 99}', "plan format 99")],
)
@pytest.mark.usefixtures("nothing_is_loaded")
def test_plan_errors_name_the_file(tmp_path, content, message):
    file = tmp_path / "plan.json"
    file.write_text(content)
    line = refused("apply", "emoji", "--plan", file, "-o", tmp_path / "out")
    assert str(file) in line
    assert re.search(message, line)


def test_a_picture_of_the_pictures_folder_may_be_of_any_mode(tmp_path, monkeypatch):
    folder = toys.write_pictures(tmp_path / "pictures")
    for number, mode in enumerate(("L", "P", "1", "CMYK", "I;16"), start=2):
        ending = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (40, 30)).save(folder / f"{number}.{ending}")
        (folder / f"{number}.txt").write_text("x")

    def stop(pipe, samples, settings):
        raise UsageError(f"{len(samples)} samples")

    monkeypatch.setattr(job, "rehearse", stop)
    with pytest.raises(UsageError, match="7 samples"):
        slimdiff_fx.slim(toys.text_to_image(), images=folder, samples=7)
