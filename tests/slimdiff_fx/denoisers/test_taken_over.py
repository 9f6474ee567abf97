"""Slimming in place: one set of weights, and a dense model that says that it has none."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

import slimdiff_fx
from passes.errors import UsageError
from passes.program.ownership import weights_digest
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.taken_over import take_over
from tests.toy_denoisers import FAMILIES
from tests.toy_pipeline import tiny_unet

SETTINGS = {"samples": 2, "steps": 2, "batch": 2}


@pytest.fixture(scope="module")
def both(toy_pipeline):
    """Slim the toy pipeline twice: results that own their weights, and in place."""
    made = []
    for in_place in (False, True):
        dense = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)
        policy = slimdiff_fx.KeepParams(0.9)
        result = slimdiff_fx.slim(dense, prompts=["red apple"], policy=policy, in_place=in_place, **SETTINGS)
        made.append((dense, result))
    return made


def test_the_result_is_the_same(both):
    (_, owner), (_, taker) = both
    assert weights_digest(taker.model) == weights_digest(owner.model)
    assert weights_digest(taker.program.graph_module) == weights_digest(owner.program.graph_module)
    assert taker.plan.sites == owner.plan.sites
    assert all(torch.equal(value, owner.plan.updates[name]) for name, value in taker.plan.updates.items())


def test_there_is_one_set_of_weights(both):
    dense, result = both[1]
    model = dict(result.model.named_parameters())
    for name, value in result.program.graph_module.named_parameters():
        assert value is model[name]
    assert result.pipe.vae is dense.vae
    assert sum(value.numel() for value in dense.unet.parameters()) == 0


def test_a_taken_over_model_says_so(both, tmp_path):
    dense, result = both[1]
    says = "this UNet2DConditionModel was slimmed in place"
    with pytest.raises(UsageError, match=says):
        dense("red apple", num_inference_steps=1)
    with pytest.raises(UsageError, match=says):
        dense.unet.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=says):
        slimdiff_fx.apply_plan(dense.unet, result.plan)
    with pytest.raises(UsageError, match=says):
        slimdiff_fx.capture(dense.unet)
    assert result.replan is None
    assert result.pipe("red apple", num_inference_steps=1, output_type="latent").images.isfinite().all()


def test_a_bare_model_is_taken_over_too():
    unet = tiny_unet()
    inputs = describe(unet)
    batches = [(inputs.args, inputs.kwargs)]
    result = slimdiff_fx.slim(unet, batches=batches, policy=slimdiff_fx.Threshold(0.5), in_place=True)
    with pytest.raises(UsageError, match="slimmed in place"):
        unet(*inputs.args)
    with torch.no_grad():
        assert result.model(*inputs.args)[0].isfinite().all()


def test_slimming_inside_inference_mode_gives_normal_tensors(toy_pipeline):
    dense = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)
    with torch.inference_mode():
        result = slimdiff_fx.slim(dense, prompts=["red apple"], policy=slimdiff_fx.KeepParams(0.9), **SETTINGS)
    assert not any(value.is_inference() for value in (*result.model.parameters(), *result.plan.updates.values()))


@pytest.mark.parametrize("family", ["unet_sd15", "pixart"])
def test_dtype_and_device_stay_for_those_who_ask_before_a_call(family):
    model = FAMILIES[family](0, torch.float16)
    take_over(model)
    assert (model.dtype, model.device.type) == (torch.float16, "cpu")
    assert all(value.numel() == 0 for value in (*model.parameters(), *model.buffers()))
