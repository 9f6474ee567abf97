"""TensorRT: the ONNX file is right, the command line builds an engine from it, and what is missing is said."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest
import torch

from slimdiff_fx.export.tensorrt import export_tensorrt, profiles, trtexec_command
from tests.plans import captured
from tests.toy_picture import capture_picture


def test_a_file_and_a_command(tmp_path: Path) -> None:
    program = capture_picture()
    report = export_tensorrt(program, tmp_path / "toy.onnx")
    assert report.onnx.relative <= 1e-5
    words = shlex.split(report.command)
    assert words[0] == "trtexec"
    options = dict(word.removeprefix("--").split("=", 1) for word in words[1:])
    assert options["saveEngine"].endswith("toy.engine")
    model = onnx.load(options["onnx"])
    shapes = {
        bound: dict(each.split(":") for each in options[f"{bound}Shapes"].split(",")) for bound in ("min", "opt", "max")
    }
    assert shapes["min"] == {"sample": "1x3x8x8", "timestep": "1"}
    assert shapes["opt"] == {"sample": "2x3x8x8", "timestep": "2"}
    assert shapes["max"] == {"sample": "4x3x8x8", "timestep": "4"}
    assert {value.name for value in model.graph.input} == shapes["opt"].keys()
    if torch.cuda.is_available() and report.missing is None:
        assert report.engine is not None
        assert report.engine.relative <= 1e-2
    else:
        assert report.engine is None
        assert "TensorrtExecutionProvider" in (report.missing or "")


def test_options_of_the_command() -> None:
    words = shlex.split(trtexec_command(capture_picture(), Path("a b/unet.onnx"), half=True, int8=True))
    assert words[1] == "--onnx=a b/unet.onnx"
    assert words[-2:] == ["--fp16", "--int8"]


@pytest.mark.slow
def test_nested_inputs_have_the_names_in_the_file() -> None:
    named = {each.split(":")[0] for each in profiles(captured("unet_sdxl"))["opt"].split(",")}
    assert named >= {"sample", "text_embeds", "time_ids"}
