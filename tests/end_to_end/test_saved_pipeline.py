"""Slim the built-in pipeline, save it, and use what was saved as any diffusers user would."""

import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file

import slimdiff_fx
from passes.errors import CheckpointError
from slimdiff_fx.pipelines.load import emoji_folder, load_pipeline
from slimdiff_fx.pipelines.sampling import Sampling, draw

# On the built-in pipeline; the toy one goes the same way in test_command_line.py.
pytestmark = pytest.mark.slow
PROMPTS = ("noto cat face", "noto pizza")
SAMPLING = Sampling(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def result():
    pipe = load_pipeline("emoji").pipe
    return slimdiff_fx.slim(pipe, prompts=PROMPTS, samples=4, steps=2, policy=slimdiff_fx.KeepParams(0.9), batch=2)


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "slim-emoji"
    result.save_pretrained(folder)
    return folder


def test_slim_is_smaller_and_equal_to_masked_dense(result):
    dense = sum(values.numel() for values in load_pipeline("emoji").pipe.unet.parameters())
    slim = sum(values.numel() for values in result.model.parameters())
    assert result.summary.params == dense
    assert result.summary.params_kept == slim
    assert 0.88 * dense < slim <= 0.9 * dense
    assert result.validation.relative_error <= 1e-5  # float32


def test_dense_pipeline_is_left_as_it_was(result):
    fresh = load_pipeline("emoji").pipe
    assert type(fresh.unet) is UNet2DConditionModel
    assert isinstance(result.pipe.unet, UNet2DConditionModel)
    assert isinstance(result.model, slimdiff_fx.SlimUNet2DConditionModel)


def test_graph_and_eager_model_are_one_function(result):
    sample, timestep, text = (value for value in result.program.args)
    with torch.no_grad():
        eager = result.model(sample, timestep, text, return_dict=False)[0]
        graph = result.program(sample, timestep, text)
    assert torch.allclose(eager, graph, rtol=0, atol=1e-5 * float(graph.abs().max()))


def test_folder_holds_what_it_should_and_no_code(saved):
    names = {str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file()}
    assert {
        "model_index.json",
        "report.json",
        "statistics.safetensors",
        "captions.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/slim_plan.json",
        "unet/checksums.json",
    } <= names
    loaded = names - {"report.html"}  # which is for a browser
    assert {name.rpartition(".")[2] for name in loaded} <= {"json", "safetensors", "txt", "md"}
    index = json.loads((saved / "model_index.json").read_text())
    assert index["unet"] == ["slimdiff_fx", "SlimUNet2DConditionModel"]
    report = json.loads((saved / "report.json").read_text())
    assert report["summary"]["params_kept"] < report["summary"]["params"]
    assert report["validation"]["relative_error"] <= 1e-5
    weights = load_file(saved / "unet" / "diffusion_pytorch_model.safetensors")
    assert sum(values.numel() for values in weights.values()) == report["summary"]["params_kept"]


def test_saved_folder_is_smaller_than_the_dense_one(saved):
    def size(folder):
        return (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size

    assert size(saved) < size(emoji_folder())


def test_new_process_draws_the_same_pictures(result, saved, tmp_path):
    ours = np.stack([np.asarray(picture) for picture in draw(result.pipe, PROMPTS, 7, SAMPLING)])
    script = f"""
        import numpy as np, torch
        from diffusers import DiffusionPipeline

        torch.set_num_threads({torch.get_num_threads()})
        pipe = DiffusionPipeline.from_pretrained({str(saved)!r})
        assert type(pipe.unet).__name__ == "SlimUNet2DConditionModel"
        from slimdiff_fx.pipelines.sampling import Sampling, draw
        pictures = draw(pipe, {PROMPTS!r}, 7, Sampling(3, 3.0))
        np.save({str(tmp_path / "theirs.npy")!r}, np.stack([np.asarray(picture) for picture in pictures]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "theirs.npy"), ours)


def test_saving_again_keeps_it_loadable(result, saved, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(saved)
    pipe.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again")
    state, other = pipe.unet.state_dict(), again.unet.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in state.items())
    assert again.unet.config.slim_units == result.model.config.slim_units


def test_other_schedulers_and_img2img_go_on_working(saved):
    pipe = DiffusionPipeline.from_pretrained(saved)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert pipe("noto rose", num_inference_steps=1).images[0].size == (64, 64)
    picture = Image.new("RGB", (64, 64), "red")
    for image_to_image in (
        AutoPipelineForImage2Image.from_pipe(pipe),
        StableDiffusionImg2ImgPipeline(**pipe.components),
        # Named in full because diffusers compares exact classes here; it says so itself when it is left out.
        StableDiffusionImg2ImgPipeline.from_pipe(pipe, unet=pipe.unet),
    ):
        assert image_to_image.unet is pipe.unet
        image_to_image.set_progress_bar_config(disable=True)
        assert image_to_image("noto rose", image=picture, num_inference_steps=1, strength=1.0).images[0].size == (
            64,
            64,
        )


def test_pipe_to_and_save_in_another_dtype(saved):
    pipe = DiffusionPipeline.from_pretrained(saved).to(torch.bfloat16)
    assert {values.dtype for values in pipe.unet.parameters()} == {torch.bfloat16}
    pipe.set_progress_bar_config(disable=True)
    assert pipe("noto rose", num_inference_steps=1).images[0].size == (64, 64)
    half = DiffusionPipeline.from_pretrained(saved, dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_a_slim_pipeline_can_be_slimmed_again(toy_pipeline, tmp_path):
    folder, params = toy_pipeline, []
    for turn in ("once", "twice"):
        pipe = DiffusionPipeline.from_pretrained(folder)
        result = slimdiff_fx.slim(pipe, prompts=PROMPTS, samples=2, steps=1, policy=slimdiff_fx.KeepParams(0.9))
        folder = tmp_path / turn
        result.save_pretrained(folder)
        params.append((result.summary.params, result.summary.params_kept))
    assert params[1][0] == params[0][1] > params[1][1]
    loaded = DiffusionPipeline.from_pretrained(folder).unet
    assert sum(values.numel() for values in loaded.parameters()) == params[1][1]


def test_altered_weights_are_refused(saved, tmp_path):
    folder = tmp_path / "altered"
    shutil.copytree(saved, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"is not the file that was saved"):
        DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"is not the file that was saved"):
        load_pipeline(str(folder))
