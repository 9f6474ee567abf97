"""A picture drawn without the denoiser shows every other component."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline

from slimdiff_fx.pipelines.sketch import sketch
from tests.toy_denoisers import FAMILIES


@pytest.fixture
def pipe(toy_pipeline):
    return DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)


def test_a_sketch_is_the_same_each_time_and_leaves_the_pipeline_as_it_was(pipe):
    pipe.scheduler.set_timesteps(7)
    before = pipe.scheduler.timesteps.clone()
    first = sketch(pipe)
    assert first.shape == (1, 64, 64, 3)
    assert torch.equal(sketch(pipe), first)
    assert torch.equal(pipe.scheduler.timesteps, before)
    assert "forward" not in vars(pipe.unet)
    assert float(first.std()) > 0.01  # it is a picture of something


@pytest.mark.parametrize(
    "change",
    [
        lambda pipe: pipe.text_encoder.register_forward_hook(lambda *call: call[2][:0] or _scaled(call[2])),
        lambda pipe: setattr(pipe.scheduler, "alphas_cumprod", pipe.scheduler.alphas_cumprod**1.5),
        lambda pipe: [setattr(m, "padding_mode", "circular") for m in pipe.vae.modules() if hasattr(m, "padding_mode")],
        lambda pipe: pipe.vae.register_to_config(scaling_factor=0.5),
        lambda pipe: setattr(pipe.text_encoder.encoder.layers[0].mlp, "forward", lambda values: values),
    ],
)
def test_every_other_component_shows(pipe, change):
    before = sketch(pipe)
    change(pipe)
    assert float((sketch(pipe) - before).abs().max()) > 5e-3


def _scaled(output):
    changed = copy.copy(output)
    changed["last_hidden_state"] = output["last_hidden_state"].flip(1)
    return changed


def test_the_denoiser_does_not_show(pipe):
    before = sketch(pipe)
    with torch.no_grad():
        for value in pipe.unet.parameters():
            value.mul_(2)
    assert torch.equal(sketch(pipe), before)


def test_a_pipeline_without_text_is_sketched_too():
    pipe = DDPMPipeline(FAMILIES["unet_unconditional"](0, torch.float32), DDPMScheduler())
    assert sketch(pipe).shape == (1, 8, 8, 3)
