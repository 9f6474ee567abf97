"""A saved folder brings back what was to be saved, or is not saved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import slimdiff_fx
from passes.errors import CheckpointError, ValidationError
from passes.program.ownership import weights_digest
from slimdiff_fx.denoisers.slim.reference import make_reference
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.saved.check_saved import check_saved
from slimdiff_fx.saved.page.write_page import write_page
from slimdiff_fx.slimming.job import Job

FIGURES = "predicted", "validation", "measured", "pictures", "latency"


@pytest.fixture(scope="module")
def made(toy_pipeline):
    """Give a captured toy pipeline and a result of slimming it."""
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float32)
    captured = capture_pipeline(pipe)
    settings = {"samples": 2, "steps": 2, "batch": 2, "policy": slimdiff_fx.KeepParams(0.9)}
    return pipe, captured, slimdiff_fx.slim(pipe, prompts=["red apple", "rose"], **settings)


@pytest.fixture
def result(made):
    """Give a result that may be changed."""
    pipe, captured, slimmed = made
    own = Job(captured.program, captured.sites, captured, pipe).carry_out(slimmed.plan)
    return replace(own, statistics=slimmed.statistics, analysis={**slimmed.analysis, "measured": {"points": []}})


def _report(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_what_was_validated_is_saved_with_its_figures(result, tmp_path):
    result.save_pretrained(tmp_path / "slim")
    report = _report(tmp_path / "slim")
    assert report["weights_changed"] is False
    assert report["validation"]["relative_error"] == result.validation.relative_error
    assert report["predicted"]["relative_mse"] == result.plan.predicted["relative_mse"]
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "slim")
    assert weights_digest(loaded.unet) == weights_digest(result.model)


@pytest.mark.parametrize("change", ["train", "cast"])
def test_a_changed_model_is_saved_as_it_is_and_its_figures_are_not(result, tmp_path, change):
    if change == "train":
        optimizer = torch.optim.SGD(result.model.parameters(), lr=1e-3)
        sum(value.square().sum() for value in result.model.parameters()).backward()
        optimizer.step()
    else:
        result.pipe.to(torch.float16)
    folder = tmp_path / "slim"
    result.save_pretrained(folder)
    report = _report(folder)
    assert report["weights_changed"] is True
    assert [report[name] for name in FIGURES] == [None] * len(FIGURES)
    assert "measured" not in json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    assert "Nothing, of these weights" in (folder / "README.md").read_text(encoding="utf-8")
    assert "were changed after the model was slimmed" in write_page(folder).read_text(encoding="utf-8")
    loaded = DiffusionPipeline.from_pretrained(folder, dtype=result.model.dtype)
    assert weights_digest(loaded.unet) == weights_digest(result.model)


def test_another_model_in_the_pipeline_is_refused(made, result, tmp_path):
    result.pipe.register_modules(unet=made[0].unet)
    with pytest.raises(CheckpointError, match="no longer the result's slim model"):
        result.save_pretrained(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def test_a_compiled_model_in_the_pipeline_is_the_result_s_own(result, tmp_path):
    result.pipe.unet = torch.compile(result.pipe.unet, backend="eager")
    result.save_pretrained(tmp_path / "slim")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "slim")
    assert weights_digest(loaded.unet) == weights_digest(result.model)


def test_what_is_not_in_the_files_is_seen_by_what_it_does(result, tmp_path):
    result.model.save_pretrained(tmp_path)
    check_saved(tmp_path, result.model, result.reference, changed=False)
    # a number that the configuration knows, changed by hand: no list of attributes would tell
    plain = result.model.forward
    result.model.forward = lambda *args, **kwargs: (1.01 * plain(*args, **kwargs)[0],)
    with pytest.raises(CheckpointError, match="predicts something else"):
        check_saved(tmp_path, result.model, result.reference, changed=True)
    del result.model.forward
    result.model.conv_act = torch.nn.ReLU()
    with pytest.raises(CheckpointError, match="predicts something else"):
        check_saved(tmp_path, result.model, result.reference, changed=True)


@pytest.mark.parametrize("damage", ["value", "lost", "more", "config"])
def test_files_that_are_not_the_model_are_refused(result, tmp_path, damage):
    result.model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if damage == "value":
        tensors["conv_out.bias"] = tensors["conv_out.bias"] + 1e-6
    elif damage == "lost":
        del tensors["conv_out.bias"]
    elif damage == "more":
        tensors["conv_out.more"] = torch.zeros(1)
    else:
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        name = next(name for name, entry in config["slim_units"].items() if entry["kind"] == "feed_forward")
        config["slim_units"][name]["kept"] -= 1
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, file)
    says = "doesn't build the model" if damage == "config" else "conv_out"
    with pytest.raises(CheckpointError, match=says):
        check_saved(tmp_path, result.model, result.reference, changed=False)


def test_an_eager_model_that_is_not_the_program_is_refused(made, result):
    captured = made[1]
    with torch.no_grad():
        result.model.conv_out.bias.add_(0.1)
    with pytest.raises(ValidationError, match="the eager SlimUNet2DConditionModel differs from the slim program"):
        make_reference(captured.inputs, result.program, result.model)
    assert make_reference(captured.inputs, result.program, result.model, check=False).has_these_weights(result.model)


def test_an_adapter_on_the_text_encoder_is_refused_before_anything_is_written(result, tmp_path):
    result.pipe.text_encoder.encoder.layers[0].mlp.fc1.base_layer = torch.nn.Identity()
    with pytest.raises(CheckpointError, match=r"text_encoder: .*fc1' is wrapped by an adapter"):
        result.save_pretrained(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pipe: pipe.text_encoder.encoder.layers.__delitem__(-1), "text_encoder: the saved configuration"),
        (lambda pipe: setattr(pipe.scheduler, "alphas_cumprod", pipe.scheduler.alphas_cumprod**1.5), "another picture"),
        (lambda pipe: setattr(pipe.vae.decoder, "forward", lambda z, *_: pipe.vae.post_quant_conv(z)), "another pict"),
        (lambda pipe: setattr(pipe.vae.decoder.conv_out, "padding_mode", "circular"), "another picture"),
    ],
)
def test_what_sits_on_another_component_is_refused(result, tmp_path, change, says):
    change(result.pipe)
    with pytest.raises(CheckpointError, match=says):
        result.save_pretrained(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


def test_changed_weights_of_another_component_are_saved(result, tmp_path):
    with torch.no_grad():
        for value in (*result.pipe.vae.parameters(), *result.pipe.text_encoder.parameters()):
            value.mul_(1.01)
    result.save_pretrained(tmp_path / "slim")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "slim")
    assert weights_digest(loaded.vae) == weights_digest(result.pipe.vae)
