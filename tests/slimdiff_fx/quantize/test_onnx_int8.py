"""ONNX files in int8: integers inside, the error is measured, and too large an error leaves no file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from passes.errors import ExportError, UsageError
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.export.input_sizes import SIZES
from slimdiff_fx.export.parity import random_inputs
from slimdiff_fx.quantize.onnx_int8 import export_onnx_int8
from tests.old_exports import ONNX
from tests.plans import random_plan
from tests.toy_denoisers import unet_sd15
from tests.toy_picture import capture_picture

Calls = list[list[Tensor]]


@pytest.fixture(scope="module")
def program() -> Program:
    return capture_picture()


@pytest.fixture(scope="module")
def calls(program: Program) -> Calls:
    return random_inputs(program, 4)


@pytest.fixture(scope="module")
def held_out(program: Program) -> Calls:
    return random_inputs(program, 2, seed=50)


def _weights(model: onnx.ModelProto, kind: int) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == kind and len(tensor.dims) > 1]


def test_static(program: Program, calls: Calls, held_out: Calls, tmp_path: Path) -> None:
    report = export_onnx_int8(program, tmp_path / "toy.onnx", held_out, calls=calls)
    assert report.mode == "static"
    assert report.calls == 2
    assert 1e-6 < report.relative_mse < 0.02  # 2e-3 is measured
    assert [file.name for file in tmp_path.iterdir()] == ["toy.onnx"]
    model = onnx.load(tmp_path / "toy.onnx")
    count = Counter(node.op_type for node in model.graph.node)
    assert count["QuantizeLinear"] > 4
    left = [tensor.name for tensor in _weights(model, TensorProto.FLOAT)]
    assert sorted(left) == ["conv_in.weight", "conv_out.weight"]
    assert len(_weights(model, TensorProto.INT8)) == 4
    # quantizing keeps what the file says about sizes
    assert SIZES in {entry.key for entry in model.metadata_props}


def test_dynamic(program: Program, held_out: Calls, tmp_path: Path) -> None:
    report = export_onnx_int8(program, tmp_path / "toy.onnx", held_out, mode="dynamic")
    assert 1e-7 < report.relative_mse < 0.01  # 4e-4 is measured
    count = Counter(node.op_type for node in onnx.load(tmp_path / "toy.onnx").graph.node)
    assert count["MatMulInteger"] == 3
    assert count["ConvInteger"] == 0


def test_symmetric_is_what_tensorrt_takes(program: Program, calls: Calls, held_out: Calls, tmp_path: Path) -> None:
    export_onnx_int8(program, tmp_path / "toy.onnx", held_out, calls=calls, symmetric=True)
    model = onnx.load(tmp_path / "toy.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = numpy_helper.to_array(tensors[node.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()


def test_too_large_an_error_leaves_the_old_file(
    program: Program, calls: Calls, held_out: Calls, tmp_path: Path
) -> None:
    (tmp_path / "toy.onnx").write_bytes(ONNX)
    # Ranges of a tenth of the real ones: activations are clipped.
    small = [[tensor * 0.01 for tensor in call] for call in calls]
    with pytest.raises(ExportError, match="calibrate on more samples"):
        export_onnx_int8(program, tmp_path / "toy.onnx", held_out, calls=small, max_error=0.001)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [ONNX]


def test_what_makes_no_sense(program: Program, held_out: Calls, tmp_path: Path) -> None:
    for settings, words in (
        ({"mode": "weights"}, "no int8 mode"),
        ({"target": "phone"}, "no ONNX target"),
        ({}, "calls="),
    ):
        with pytest.raises(UsageError, match=words):
            export_onnx_int8(program, tmp_path / "toy.onnx", held_out, **settings)
    with pytest.raises(UsageError, match="nothing to compare on"):
        export_onnx_int8(program, tmp_path / "toy.onnx", [], mode="dynamic")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_slim_unet(mode: str, tmp_path: Path) -> None:
    dense = capture_denoiser(unet_sd15(0))
    slim = rewrite(dense, random_plan(dense, 0))
    calls = random_inputs(slim, 4)
    report = export_onnx_int8(slim, tmp_path / "toy.onnx", random_inputs(slim, 2, seed=50), mode=mode, calls=calls)
    assert 1e-7 < report.relative_mse < 0.02


def _arrays(file: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


@pytest.mark.parametrize(("mode", "reduced"), [("static", True), ("dynamic", False)])
def test_each_output_channel_has_the_scale_of_its_largest_weight(
    mode: str, reduced: bool, program: Program, calls: Calls, held_out: Calls, tmp_path: Path
) -> None:
    uneven = program.copy()
    with torch.no_grad():  # a scale for the whole tensor would be the largest channel's
        for name in ("up", "down", "time", "middle"):
            weight = uneven.module(name).weight.detach().clone()
            factors = torch.linspace(0.3, 1.7, len(weight)).reshape(-1, *[1] * (weight.dim() - 1))
            uneven.module(name).weight = nn.Parameter(weight * factors)
    file = tmp_path / "toy.onnx"
    export_onnx_int8(
        uneven, file, held_out, mode=mode, calls=calls if mode == "static" else (), reduce_range=reduced, max_error=1.0
    )
    arrays = _arrays(file)
    largest = 64 if reduced else 127
    checked = 0
    for name in ("up", "down", "time", "middle"):
        weight = uneven.module(name).weight.detach().numpy()
        per_channel = np.abs(weight).reshape(len(weight), -1).max(1) / largest
        scales = [value for key, value in arrays.items() if key.endswith("_scale") and value.shape == per_channel.shape]
        found = [value for value in scales if np.allclose(value, per_channel, rtol=0.02)]
        if name == "middle" and mode == "dynamic":  # convolutions stay in float
            assert not found
            continue
        assert len(found) == 1, name
        checked += 1
    assert checked == (4 if mode == "static" else 3)
    whole = [value for value in arrays.values() if value.dtype == np.int8 and value.ndim > 1]
    assert whole
    for value in whole:
        assert np.abs(value.astype(int)).max() == largest
