"""A quantized model is refused before anything is done with it, by a sentence that says why."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import slimdiff_fx
from passes.capture.capture import capture
from passes.capture.refuse_quantized import quantized_places
from passes.errors import UsageError
from passes.program.inputs import unflatten
from slimdiff_fx.export.parity import random_inputs
from tests.toy_block import TOKENS, WIDTH, build, capture_block
from tests.toy_denoisers import unet_sd15

WHY = r"quantized already \(.*{place}.*slim the float model first, then quantize the slim one"


def test_float_models_of_any_kind_pass() -> None:
    assert not list(quantized_places(build(dtype=torch.float32)))
    assert not list(quantized_places(build(dtype=torch.float32).half()))
    assert not list(quantized_places(capture_block(build()).graph_module))


def test_eager_weights_of_torchao() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model = unet_sd15(0)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    with pytest.raises(UsageError, match=WHY.format(place=r"time_embedding.linear_1.weight is of type Int8Tensor")):
        slimdiff_fx.capture(model)


def test_packed_modules_of_torch() -> None:
    model = build(dtype=torch.float32)
    quantized = torch.ao.nn.quantized.Linear(WIDTH, WIDTH)
    model.attention.to_out = quantized
    with pytest.raises(
        UsageError, match=WHY.format(place="attention.to_out is a module of type torch.ao.nn.quantized")
    ):
        capture(model, (torch.randn(2, TOKENS, WIDTH), torch.tensor(5)))


def test_tensors_of_quantized_dtypes() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    assert list(quantized_places(model)) == ["table is of type Tensor, qint8"]


def test_graphs_that_quantize_and_dequantize() -> None:
    pytest.importorskip("torchao")
    from slimdiff_fx.quantize.pt2e import quantize_pt2e

    program = capture_block(build(dtype=torch.float32))
    calls = random_inputs(program, 1)
    graph_module = copy.deepcopy(quantize_pt2e(program, calls).graph_module)
    args, kwargs = unflatten(program, calls[0])
    with pytest.raises(UsageError, match=WHY.format(place=r"its graph calls quantized_decomposed")):
        capture(graph_module, args, kwargs)
    with pytest.raises(UsageError, match=WHY.format(place=r"its graph calls quantized_decomposed")):
        slimdiff_fx.capture(graph_module)
