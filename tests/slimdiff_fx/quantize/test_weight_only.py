"""Int8 weights of an eager model: a copy, smaller, close, and of no use for slimming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from passes.errors import UsageError
from passes.program.inputs import call_flat
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from slimdiff_fx.export.parity import random_inputs
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import draw
from slimdiff_fx.quantize.weight_only import quantize_weights, weight_bytes
from tests.plans import random_plan
from tests.toy_denoisers import unet_sd15

pytest.importorskip("torchao")


@pytest.mark.slow
def test_a_slim_eager_unet() -> None:
    dense = unet_sd15(0)
    program = capture_denoiser(dense)
    plan = random_plan(program, 0)
    model = apply_plan(dense, plan)
    quantized = quantize_weights(model)
    assert type(quantized) is type(model)
    linears = [module for module in quantized.modules() if isinstance(module, nn.Linear)]
    assert {type(linear.weight).__name__ for linear in linears} == {"Int8Tensor"}
    assert all(type(value) is nn.Parameter for value in model.parameters())
    saved = sum(3 * linear.weight.numel() - 4 * linear.out_features for linear in linears)
    assert weight_bytes(quantized) == weight_bytes(model) - saved
    lost = energy = 0.0
    with torch.no_grad():
        for call in random_inputs(program, 2):
            expected = call_flat(rewrite(program, plan), call)
            lost += float((quantized(*call, return_dict=False)[0] - expected).square().sum())
            energy += float(expected.square().sum())
    assert 1e-8 < lost / energy < 1e-3  # 2e-5 is measured


def test_in_its_pipeline(toy_pipeline: Path) -> None:
    loaded = load_pipeline(str(toy_pipeline))
    loaded.pipe.unet = quantize_weights(loaded.pipe.unet)
    assert len(draw(loaded.pipe, ["rose"], 0, loaded.sampling)) == 1


def test_not_twice() -> None:
    with pytest.raises(UsageError, match="quantized already"):
        quantize_weights(quantize_weights(nn.Sequential(nn.Linear(8, 8))))
