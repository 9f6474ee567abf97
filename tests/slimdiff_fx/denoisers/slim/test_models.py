import random

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForInpainting,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import nn

import slimdiff_fx
from passes.errors import CheckpointError, UsageError
from passes.plan.fingerprint import fingerprint_parameters
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan, eager_site
from slimdiff_fx.denoisers.slim.models import SLIM_CLASSES, make_slim
from slimdiff_fx.pipelines.load import emoji_folder
from tests.toy_denoisers import FAMILIES
from tests.toy_pipeline import tiny_unet

TWO_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def random_plan(model, seed):
    """Plan from the eager model alone: no capture is needed for what is tested here."""
    draw, entries = random.Random(seed), {}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            kind, units = "attention", module.heads
        elif isinstance(module, FeedForward):
            name, kind, units = f"{name}.net", "feed_forward", module.net[2].in_features
        else:
            continue
        kept = sorted(draw.sample(range(units), draw.randint(1, units)))
        entries[name] = SitePlan(kind, units, tuple(kept))
    sites = [eager_site(model, name, entry) for name, entry in entries.items()]
    return SlimPlan(fingerprint_parameters(dict(model.named_parameters()), sites), entries)


def predict(model, inputs):
    inputs.module.denoiser = model
    with torch.no_grad():
        return inputs.module(*inputs.args, **inputs.kwargs)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_saved_and_loaded_model_is_the_same_function(family, tmp_path):
    dense = FAMILIES[family](3, torch.float32)
    plan = random_plan(dense, 3)
    inputs = describe(dense)
    slim = make_slim(dense, plan)
    assert isinstance(slim, type(dense))
    assert type(slim) in SLIM_CLASSES
    assert type(dense) not in SLIM_CLASSES
    expected = predict(slim, inputs)
    assert torch.equal(predict(apply_plan(dense, plan), inputs), expected)
    assert not torch.equal(predict(dense, inputs), expected)
    slim.save_pretrained(tmp_path)
    for options in ({}, {"low_cpu_mem_usage": False}):
        loaded = type(slim).from_pretrained(tmp_path, **options)
        assert isinstance(loaded, type(dense))
        assert torch.equal(predict(loaded, inputs), expected)
        assert {name: values.shape for name, values in loaded.state_dict().items()} == {
            name: values.shape for name, values in slim.state_dict().items()
        }


def test_head_counts_of_a_loaded_model_are_the_kept_ones(tmp_path):
    dense = FAMILIES["unet_sd15"](0, torch.float32)
    plan = random_plan(dense, 1)
    make_slim(dense, plan).save_pretrained(tmp_path)
    loaded = slimdiff_fx.SlimUNet2DConditionModel.from_pretrained(tmp_path)
    for name, entry in plan.sites.items():
        if entry.kind == "attention":
            attention = loaded.get_submodule(name)
            assert attention.heads == len(entry.kept)
            assert attention.sliceable_head_dim == max(len(entry.kept), 2)
            assert attention.to_q.out_features == attention.inner_dim == attention.to_out[0].in_features


def test_slimming_twice_remembers_the_dense_width(tmp_path):
    dense = FAMILIES["pixart"](0, torch.float32)
    once = make_slim(dense, random_plan(dense, 1))
    twice = make_slim(once, random_plan(once, 2))
    twice.save_pretrained(tmp_path)
    loaded = type(twice).from_pretrained(tmp_path)
    inputs = describe(dense)
    assert torch.equal(predict(loaded, inputs), predict(twice, inputs))
    assert sum(values.numel() for values in loaded.parameters()) < sum(values.numel() for values in once.parameters())


def test_dense_weights_are_shared_only_where_that_is_asked_for():
    dense = FAMILIES["unet_sd15"](0, torch.float32)
    plan = random_plan(dense, 1)
    assert make_slim(dense, plan, share=True).conv_in.weight is dense.conv_in.weight
    own = make_slim(dense, plan)
    theirs = {value.data_ptr() for value in dense.parameters()}
    assert not theirs & {value.data_ptr() for value in own.parameters()}
    assert own.slim_plan() is not plan


def test_unconditional_pipeline_loads(tmp_path):
    unet = FAMILIES["unet_unconditional"](0, torch.float32)
    pipe = DDPMPipeline(make_slim(unet, random_plan(unet, 0)), DDPMScheduler())
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.unet).__name__ == "SlimUNet2DModel"
    loaded.set_progress_bar_config(disable=True)
    assert loaded(batch_size=1, num_inference_steps=1, output_type="np").images.shape[0] == 1


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_model_gives_the_same_prediction(backend):
    dense = tiny_unet()
    slim = make_slim(dense, random_plan(dense, 0))
    sample, timestep, text = describe(dense, tokens=14).args
    with torch.no_grad():
        expected = slim(sample, timestep, text, return_dict=False)[0]
        compiled = torch.compile(slim, backend=backend, fullgraph=True)(sample, timestep, text, return_dict=False)[0]
    assert torch.allclose(compiled, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_goes_on_working(channels, tmp_path):
    dense = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    kind = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    parts = DiffusionPipeline.from_pretrained(emoji_folder(), unet=None, vae=None).components
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **TWO_BLOCKS)
    parts = {name: part for name, part in parts.items() if name not in ("unet", "vae")}
    kind(**parts, unet=make_slim(dense, random_plan(dense, 0)), vae=vae).save_pretrained(tmp_path)
    pipe = AutoPipelineForInpainting.from_pipe(DiffusionPipeline.from_pretrained(tmp_path))
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.unet).__name__ == "SlimUNet2DConditionModel"
    picture, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
    drawn = pipe("a rose", image=picture, mask_image=mask, height=16, width=16, num_inference_steps=1, strength=1.0)
    assert drawn.images[0].size == (16, 16)


@pytest.mark.parametrize("change", [{"kept": 0}, {"kept": 10**6}, {"kind": "magic"}, {"units": 3}, {}])
def test_tampered_widths_are_refused(change, tmp_path):
    dense = FAMILIES["unet_sd15"](0, torch.float32)
    slim = make_slim(dense, random_plan(dense, 1))
    units = {name: dict(entry) for name, entry in slim.config.slim_units.items()}
    name = next(iter(units))
    if change:
        units[name].update(change)
    else:
        units["nowhere"] = units.pop(name)
    slim.register_to_config(slim_units=units)
    slim.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"slim_units of '.*' is garbled"):
        type(slim).from_pretrained(tmp_path)


def test_unknown_class_is_refused():
    class Other(nn.Module):
        pass

    with pytest.raises(UsageError, match="Other can't be saved slim; supported are UNet2DConditionModel"):
        make_slim(Other(), SlimPlan({}, {}))
