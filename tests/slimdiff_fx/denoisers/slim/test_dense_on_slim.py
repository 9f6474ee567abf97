"""Dense classes that meet something slim say so, and do what they did with everything else."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoModel,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    MotionAdapter,
    StableDiffusionPAGPipeline,
    StableDiffusionSAGPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)

from passes.errors import CheckpointError, UsageError
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_pipeline import tiny_unet

MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn1"
QUICK = {"num_inference_steps": 1, "output_type": "latent"}


@pytest.fixture(scope="module")
def dense():
    return tiny_unet()


def cut(dense, kept):
    """Keep so many of the four heads in the middle block's self-attention; two thirds of the rest go at random."""
    plan = random_plan(dense, 3)
    sites = {**plan.sites, MIDDLE: SitePlan("attention", 4, tuple(range(kept)))}
    return make_slim(dense, SlimPlan(plan.fingerprint, sites))


@pytest.fixture(scope="module")
def slim(dense):
    return cut(dense, 3)


@pytest.fixture(scope="module")
def folder(slim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slim")
    slim.save_pretrained(folder / "unet")
    return folder


def motion():
    return MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4
    )


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: UNet2DConditionModel.from_pretrained(folder / "unet"),
        lambda folder: UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet"),
        lambda folder: UNet2DConditionModel.from_pretrained(pretrained_model_name_or_path=str(folder / "unet")),
        lambda folder: UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False),
        lambda folder: UNetMotionModel.from_pretrained(folder / "unet"),
        lambda folder: AutoModel.from_pretrained(folder / "unet"),
        lambda folder: AutoModel.from_pretrained(folder, subfolder="unet"),
    ],
)
def test_a_dense_class_names_the_slim_one(load, folder) -> None:
    with pytest.raises(CheckpointError, match=r"slim model, .*slimdiff_fx\.SlimUNet2DConditionModel\.from_pretrained"):
        load(folder)


def test_what_a_dense_class_says_of_dense_folders_is_its_own(dense, tmp_path) -> None:
    dense.save_pretrained(tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.conv_in.weight, dense.conv_in.weight)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named"):
        UNet2DConditionModel.from_pretrained(tmp_path)
    UNet2DConditionModel(**{**dense.config, "out_channels": 8}).save_pretrained(tmp_path)
    dense.save_config(tmp_path)
    with pytest.raises(ValueError, match="expected shape") as raised:
        UNet2DConditionModel.from_pretrained(tmp_path)
    assert not isinstance(raised.value, CheckpointError)


def test_a_slim_class_says_of_other_shapes_what_it_did(folder, tmp_path, slim, dense) -> None:
    slim.save_config(tmp_path)
    torch.manual_seed(0)
    cut(dense, 2).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(ValueError, match="expected shape"):
        type(slim).from_pretrained(tmp_path)


def test_a_control_network_is_made_from_the_dense_unet(slim, dense) -> None:
    for call in (lambda: ControlNetModel.from_unet(slim), lambda: ControlNetModel.from_unet(unet=slim)):
        with pytest.raises(UsageError, match="this SlimUNet2DConditionModel is slim; make it from the dense UNet"):
            call()
    made = ControlNetModel.from_unet(dense)
    assert torch.equal(made.conv_in.weight, dense.conv_in.weight)
    assert isinstance(ControlNetModel.from_unet(slim, load_weights_from_unet=False), ControlNetModel)
    assert next(iter(inspect.signature(ControlNetModel.from_unet).parameters)) == "unet"


def test_a_class_that_is_written_later_is_wrapped_too(slim) -> None:
    class Own(ControlNetModel):
        @classmethod
        def from_unet_of_mine(cls, unet):
            made = cls.from_config({**unet.config, "conditioning_embedding_out_channels": (16, 32)})
            made.mid_block.load_state_dict(unet.mid_block.state_dict())

    with pytest.raises(UsageError, match="Own takes over a UNet's weights in their dense shapes"):
        Own.from_unet_of_mine(slim)


def test_an_error_that_is_not_of_shapes_stays(dense, slim) -> None:
    for unet in (dense, slim):
        with pytest.raises(TypeError):
            ControlNetModel.from_unet(unet, no_such_argument=1)
    other = tiny_unet()
    other.conv_in = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ControlNetModel.from_unet(other)


def test_animatediff_takes_the_dense_unet(toy_pipeline, slim, dense) -> None:
    with pytest.raises(UsageError, match=r"UNetMotionModel takes over .* make it from the dense UNet"):
        UNetMotionModel.from_unet2d(slim, motion())
    parts = DiffusionPipeline.from_pretrained(toy_pipeline, unet=dense).components
    wanted = [name for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler") if name in parts]
    with pytest.raises(UsageError, match="make it from the dense UNet"):
        AnimateDiffPipeline(**{name: parts[name] for name in wanted} | {"unet": slim}, motion_adapter=motion())
    assert isinstance(UNetMotionModel.from_unet2d(dense, motion()), UNetMotionModel)


def guided(kind, toy_pipeline, unet, **options):
    parts = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32).components
    names = ("vae", "text_encoder", "tokenizer")
    pipe = kind(
        **{name: parts[name] for name in names},
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_self_attention_guidance_is_refused_before_it_draws(toy_pipeline, dense, slim) -> None:
    before = dict(slim.attn_processors)
    pipe = guided(StableDiffusionSAGPipeline, toy_pipeline, slim)
    with pytest.raises(UsageError, match=r"as 4 heads, .*is slim and has 3 there; use the dense UNet.*sag_scale=0"):
        pipe("rose", **QUICK)
    assert slim.attn_processors == before
    assert torch.isfinite(pipe("rose", sag_scale=0.0, **QUICK).images).all()
    for unet in (dense, cut(dense, 4)):  # all heads of the middle block
        assert torch.isfinite(guided(StableDiffusionSAGPipeline, toy_pipeline, unet)("rose", **QUICK).images).all()


def test_perturbed_attention_guidance_runs_on_a_slim_unet(toy_pipeline, slim) -> None:
    pipe = guided(StableDiffusionPAGPipeline, toy_pipeline, slim, pag_applied_layers=["mid"])
    images = [
        pipe("rose", pag_scale=scale, generator=torch.Generator().manual_seed(0), **QUICK).images for scale in (0, 3)
    ]
    assert not torch.equal(*images)


@pytest.mark.slow
def test_in_a_new_process_that_has_imported_nothing_of_ours(folder) -> None:
    program = f"""
        import sys
        from diffusers import UNet2DConditionModel
        try:
            UNet2DConditionModel.from_pretrained({str(folder)!r}, subfolder="unet")
        except Exception as error:
            print("slimdiff_fx.denoisers.slim.models" in sys.modules, type(error).__name__, error)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environment, check=True
    )
    assert "False CheckpointError" in done.stdout
    assert "SlimUNet2DConditionModel.from_pretrained" in done.stdout
