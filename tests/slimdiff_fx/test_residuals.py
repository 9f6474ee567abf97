"""ControlNets and T2I-Adapters on a slim UNet: in diffusers' pipelines, as inputs of its graph, in ONNX."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)

import slimdiff_fx
from passes.errors import UsageError
from passes.program.fresh_inputs import fresh_inputs
from passes.prove.validate import validate
from slimdiff_fx.denoisers.call import translate_call
from slimdiff_fx.denoisers.families import capture_denoiser, describe
from slimdiff_fx.denoisers.residuals import DOWN, INTRABLOCK, MID
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.pipelines.captured import capture_pipeline
from tests.plans import random_plan as plan_of_program
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_adapters import masked
from tests.toy_denoisers import FAMILIES

EXACT = {"rtol": 0, "atol": 1e-10}
SINGLE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def pipes(toy_pipeline):
    """Give dense and slim UNets in float64 whose cross-attention comes first, as in Stable Diffusion."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=4,
    ).double()
    plain = DiffusionPipeline.from_pretrained(toy_pipeline, unet=unet.eval(), dtype=torch.float64)
    plain.set_progress_bar_config(disable=True)
    plan = random_plan(unet, 1)
    return SimpleNamespace(plain=plain, dense=unet, slim=make_slim(unet, plan), plan=plan)


@pytest.fixture(scope="module")
def controlnet(pipes):
    """Give a ControlNet whose last layers are not zero, as they are before training."""
    torch.manual_seed(1)
    made = ControlNetModel.from_unet(pipes.dense).double().eval()
    with torch.no_grad():
        for block in (*made.controlnet_down_blocks, made.controlnet_mid_block, made.controlnet_cond_embedding.conv_out):
            block.weight.normal_(std=0.1)
    return made


def _draw(pipe):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return pipe("rose", image=picture, num_inference_steps=2, generator=generator, output_type="latent").images


def _same(pipes, pipeline, **further):
    dense, slim = (
        pipeline.from_pipe(pipes.plain, unet=unet, dtype=torch.float64, **further) for unet in (pipes.dense, pipes.slim)
    )
    for pipe in (dense, slim):
        pipe.set_progress_bar_config(disable=True)
    with masked(pipes.dense, pipes.plan):
        expected = _draw(dense)
    torch.testing.assert_close(_draw(slim), expected, **EXACT)
    pipes.plain.set_progress_bar_config(disable=True)
    with masked(pipes.dense, pipes.plan):
        without = pipes.plain(
            "rose", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
        )
    assert (expected - without.images).abs().max() > 0.05  # the control does something
    return slim


def test_controlnet_pipeline(pipes, controlnet) -> None:
    slim = _same(pipes, StableDiffusionControlNetPipeline, controlnet=controlnet)
    with pytest.raises(UsageError, match="wants a control picture"):
        slimdiff_fx.slim(slim, prompts=["rose"], samples=1)


def test_t2i_adapter_pipeline(pipes) -> None:
    torch.manual_seed(3)
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=8).double()
    _same(pipes, StableDiffusionAdapterPipeline, adapter=adapter)


@pytest.mark.slow
def test_the_graph_of_a_controlnet_pipeline_takes_its_calls(pipes, controlnet) -> None:
    pipe = StableDiffusionControlNetPipeline.from_pipe(
        pipes.plain, unet=pipes.slim, controlnet=controlnet, dtype=torch.float64
    )
    pipe.set_progress_bar_config(disable=True)
    captured, calls = capture_pipeline(pipe), []
    plain = pipes.slim.forward

    def watch(*args, **kwargs):
        calls.append(translate_call(captured.inputs, args, kwargs))
        result = plain(*args, **kwargs)
        assert torch.equal(captured.program(*calls[-1][0], **calls[-1][1]), result[0])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipes.slim, "forward", watch)
        _draw(pipe)
    assert len(calls) == 2
    kwargs = calls[0][1]
    with pytest.raises(UsageError, match="1 down_block_additional_residuals, the captured program takes 4"):
        translate_call(captured.inputs, calls[0][0], {**kwargs, DOWN: kwargs[DOWN][:1]})
    bare = describe(pipes.slim)
    with pytest.raises(UsageError, match="calibrate without a ControlNet"):
        translate_call(bare, calls[0][0], kwargs)


@pytest.fixture(scope="module")
def programs():
    dense = FAMILIES["unet_sd15"](3, torch.float32)
    program = capture_denoiser(dense, residuals=("controlnet", "t2i_adapter"))
    plan = plan_of_program(program, 1)
    return SimpleNamespace(model=dense, dense=program, plan=plan, slim=slimdiff_fx.convert(program, plan))


@pytest.mark.slow
def test_residuals_are_inputs_of_capture_and_slim_program(programs) -> None:
    assert validate(programs.dense, programs.plan, programs.slim).relative_error < 1e-5
    eager = slimdiff_fx.apply_plan(programs.model, programs.plan)
    for args, kwargs in fresh_inputs(programs.slim):
        assert list(kwargs) == [DOWN, MID, INTRABLOCK]
        given = {**kwargs, INTRABLOCK: list(kwargs[INTRABLOCK])}  # which the UNet empties
        with torch.no_grad():
            expected = eager(*args, **given, return_dict=False)[0]
            unlike = programs.slim(*args, **{**kwargs, MID: 2 * kwargs[MID]})
        torch.testing.assert_close(programs.slim(*args, **kwargs), expected, **SINGLE)
        assert (unlike - expected).abs().max() > 1e-3


@pytest.mark.slow
def test_residuals_outlive_lowering(programs) -> None:
    lowered = slimdiff_fx.lower(programs.slim).module()
    for args, kwargs in fresh_inputs(programs.slim):
        torch.testing.assert_close(lowered(*args, **kwargs), programs.slim(*args, **kwargs), **SINGLE)


@pytest.mark.slow
def test_sdxl() -> None:
    program = capture_denoiser(FAMILIES["unet_sdxl"](0, torch.float32), residuals=("controlnet", "t2i_adapter"))
    (args, kwargs), (other, _) = fresh_inputs(program)
    assert args[0].shape[2:] != args[0].shape[:1:-1] == other[0].shape[2:]  # not square, and turned
    assert len(kwargs[DOWN]) == 4
    assert len(kwargs[INTRABLOCK]) == 3  # the last is for the mid block


def test_refuses_what_takes_none() -> None:
    with pytest.raises(UsageError, match="takes no residuals"):
        describe(FAMILIES["dit"](0, torch.float32), residuals=("controlnet",))
    with pytest.raises(UsageError, match="unknown residuals 'lora'"):
        describe(FAMILIES["unet_sd15"](0, torch.float32), residuals=("lora",))


@pytest.mark.slow
def test_onnx_takes_residuals(programs, tmp_path) -> None:
    report = slimdiff_fx.export_onnx(programs.slim, tmp_path / "unet.onnx")
    assert report.relative < 1e-5
    pictures = {case.shapes["sample"][2:] for case in report.cases}
    middles = {case.shapes[MID][2:] for case in report.cases}
    assert len(pictures) == 3
    # a halving rounds up, and one of the pictures is uneven
    assert middles == {(-(-height // 2), -(-width // 2)) for height, width in pictures}
    assert any(height % 2 for height, _ in pictures)
