"""A slim UNet wherever diffusers takes it: pipelines, attention, memory formats, precisions, files, offloading."""

from __future__ import annotations

from types import SimpleNamespace

import accelerate
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from slimdiff_fx.denoisers.slim.models import SlimUNet2DConditionModel, make_slim
from slimdiff_fx.pipelines.load import emoji_folder
from tests.slimdiff_fx.denoisers.slim.test_models import TWO_BLOCKS, random_plan
from tests.toy_adapters import bare, masked

EXACT = {"rtol": 0, "atol": 1e-10}


def _unet(in_channels=4):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet.double().eval()


@pytest.fixture(scope="module")
def models():
    dense = _unet()
    plan = random_plan(dense, 2)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    text = torch.randn(2, 5, 128, generator=generator, dtype=torch.float64)
    return SimpleNamespace(dense=dense, plan=plan, inputs=(sample, torch.tensor([3.0, 500.0]), text))


@pytest.fixture
def slim(models):
    return make_slim(bare(models.dense), models.plan)


def _predict(unet, inputs, **options):
    with torch.no_grad():
        return unet(*inputs, return_dict=False, **options)[0]


@pytest.fixture(scope="module")
def parts():
    """Give the parts of a Stable Diffusion pipeline but for its UNet, with latents of four channels."""
    parts = DiffusionPipeline.from_pretrained(emoji_folder()).components
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **TWO_BLOCKS).eval()
    return {**parts, "vae": vae.double(), "text_encoder": parts["text_encoder"].double()}


def _draw(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    arguments = {"num_inference_steps": 2, "generator": generator, "output_type": "latent", **options}
    return pipe("a rose", **arguments).images


PICTURE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
MASK = Image.linear_gradient("L").resize((16, 16)).point(lambda value: 255 if value > 128 else 0)


@pytest.mark.parametrize("kind", ["img2img", "inpaint", "inpaint with nine channels"])
def test_other_pipelines(kind, parts) -> None:
    dense = _unet(9 if "nine" in kind else 4)
    plan = random_plan(dense, 2)
    inpaints = kind.startswith("inpaint")
    options = {"image": PICTURE, "strength": 0.9}
    if inpaints:
        options |= {"mask_image": MASK, "height": 16, "width": 16}
    plain = StableDiffusionInpaintPipeline if inpaints else StableDiffusionImg2ImgPipeline
    pipes = [plain(**{**parts, "unet": unet}) for unet in (dense, make_slim(dense, plan))]
    with masked(dense, plan):
        expected = _draw(pipes[0], **options)
    torch.testing.assert_close(_draw(pipes[1], **options), expected, **EXACT)
    auto = (AutoPipelineForInpainting if inpaints else AutoPipelineForImage2Image).from_pipe(pipes[1])
    assert isinstance(auto.unet, SlimUNet2DConditionModel)
    torch.testing.assert_close(_draw(auto, **options), expected, **EXACT)


def test_from_pipe_takes_the_slim_unet(parts, slim) -> None:
    text = StableDiffusionPipeline(**{**parts, "unet": slim})
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(text, unet=text.unet, dtype=torch.float64)
    assert pipe.unet is slim
    with pytest.raises(ValueError, match="unet"):  # diffusers compares classes, and ours is a subclass
        StableDiffusionImg2ImgPipeline.from_pipe(text)


@pytest.mark.parametrize("size", ["auto", "max", 1])
def test_attention_slicing(size, models, slim) -> None:
    expected = _predict(slim, models.inputs)
    slim.set_attention_slice(size)
    assert {type(each).__name__ for each in slim.attn_processors.values()} == {"SlicedAttnProcessor"}
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)


def test_attention_written_out(models, slim) -> None:
    expected = _predict(slim, models.inputs)
    slim.set_attn_processor(AttnProcessor())
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)


def test_fused_projections(models, slim) -> None:
    expected = _predict(slim, models.inputs)
    slim.fuse_qkv_projections()
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)
    slim.unfuse_qkv_projections()
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)


def test_channels_last(models, slim) -> None:
    expected = _predict(slim, models.inputs)
    slim.to(memory_format=torch.channels_last)
    assert slim.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 6e-2)])
def test_half_precision(dtype, tolerance, models, slim) -> None:
    expected = _predict(slim, models.inputs)
    sample, timestep, text = models.inputs
    found = _predict(slim.to(dtype), (sample.to(dtype), timestep, text.to(dtype)))
    assert found.dtype == dtype
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("offload", ["sequential", "whole model", "groups"])
def test_offloading_hooks(offload, models, slim) -> None:
    """There is no GPU here: the hooks move weights, but to the processor."""
    expected = _predict(slim, models.inputs)
    if offload == "sequential":
        accelerate.cpu_offload(slim, execution_device=torch.device("cpu"))
        assert slim.conv_in.weight.is_meta
    elif offload == "whole model":
        slim, _ = accelerate.cpu_offload_with_hook(slim, torch.device("cpu"))
    else:
        slim.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(_predict(slim, models.inputs), expected, **EXACT)


def test_variants_and_shards(parts, models, slim, tmp_path) -> None:
    pipe = StableDiffusionPipeline(**{**parts, "unet": slim})
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="40KB")
    saved = {file.name for file in (tmp_path / "unet").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in saved
    assert sum(name.startswith("diffusion_pytorch_model.fp16-0") for name in saved) > 1
    assert {"slim_plan.json", "checksums.json", "config.json"} <= saved
    loaded = DiffusionPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float64)
    torch.testing.assert_close(_predict(loaded.unet, models.inputs), _predict(slim, models.inputs), **EXACT)
