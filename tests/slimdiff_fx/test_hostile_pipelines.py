"""Pipelines that can't do what is asked of them: told in one line that helps, before anything slow is done."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline

import slimdiff_fx
from passes.errors import BudgetError, PlanError, UsageError
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings, describe_run
from slimdiff_fx.files.statistics_file import load_record
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.sampling import Sampling
from slimdiff_fx.slimming import job
from tests import picture_pipelines as toys
from tests.failing_command import refused
from tests.toy_denoisers import FAMILIES

BEYOND = str(2**63)


def dit():
    transformer = FAMILIES["dit"](0, torch.float32)
    vae = AutoencoderKL(latent_channels=transformer.config.in_channels, norm_num_groups=4, block_out_channels=(8,))
    return DiTPipeline(transformer, vae, DDIMScheduler(), id2label={0: "cat, house cat", 1: "dog"})


def unconditional():
    return DDPMPipeline(FAMILIES["unet_unconditional"](0, torch.float32), DDPMScheduler())


@pytest.mark.usefixtures("nothing_is_captured")
@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dit, {"prompts": ["a red apple"]}, "class label 'a red apple' is no number and none of the pipeline's labels"),
        (dit, {"prompts": ["dog", "{count}"]}, "class label {count} is out of range; give class numbers, 0 to {last}"),
        (dit, {"prompts": [-1]}, "class label -1 is out of range"),
        (dit, {"prompts": ["²"]}, "class label '²' is no number"),
        (dit, {"prompts": ["9" * 40]}, "is no number"),
        (unconditional, {"prompts": ["a"]}, "DDPMPipeline takes no prompts; leave `prompts` out"),
        (unconditional, {"steps": 2000}, "`steps` is 2000, and DDPMScheduler has 1000 timesteps"),
        (toys.img2img, {"prompts": ["a"]}, "StableDiffusionImg2ImgPipeline needs pictures to calibrate on"),
        (toys.inpainting, {"prompts": ["a"]}, "StableDiffusionInpaintPipeline needs pictures to calibrate on"),
        (toys.instructed, {"prompts": ["a"]}, "StableDiffusionInstructPix2PixPipeline needs pictures"),
        (toys.upscaling, {"prompts": ["a"]}, "StableDiffusionUpscalePipeline needs pictures"),
    ],
)
def test_pipelines_that_take_something_else(make, options, message):
    pipe = make()
    names = {}
    if make is dit:
        count = pipe.transformer.config.num_embeds_ada_norm
        names = {"count": count, "last": count - 1}
        options = {"prompts": [str(each).format(**names) for each in options["prompts"]]}
    with pytest.raises(UsageError) as raised:
        slimdiff_fx.slim(pipe, **{"samples": 2, "steps": 2, **options})
    assert message.format(**names) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_labels_may_be_words_and_numbers(monkeypatch):
    seen = []

    def stop(pipe, samples, settings):
        seen.extend(sample.condition for sample in samples)
        raise UsageError("enough")

    monkeypatch.setattr(job, "rehearse", stop)
    with pytest.raises(UsageError, match="enough"):
        slimdiff_fx.slim(dit(), prompts=["dog", " house cat ", 1, "0"], samples=4, steps=2)
    assert sorted(seen) == [" house cat ", "0", "1", "dog"]


@pytest.mark.usefixtures("nothing_is_captured")
def test_what_the_pipeline_itself_refuses_is_told_before_the_capture():
    class Picky(type(toys.text_to_image())):
        def check_inputs(self, *args, **kwargs):
            raise ValueError("this pipeline is picky\nand long-winded")

    pipe = toys.text_to_image()
    pipe.__class__ = Picky
    with pytest.raises(UsageError, match=r"Picky can't be called with these settings \(ValueError: .* picky\)$"):
        slimdiff_fx.slim(pipe, prompts=["a"], samples=1, steps=2)
    assert "forward" not in pipe.unet.__dict__


@pytest.fixture(scope="module")
def captured():
    return capture_pipeline(toys.text_to_image())


@pytest.mark.usefixtures("nothing_is_calibrated")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(
            ({"policy": policy, "method": method}, BudgetError, "can't be met: with .* ask for 0\\.")
            for policy in (slimdiff_fx.KeepParams(1e-9), slimdiff_fx.KeepMacs(0.01))
            for method in ("best", "slimdiff", "obs", "threshold")
        ),
        ({"sequential": 99}, UsageError, "`sequential` is 99; give 2 to"),
        ({"policy": KeepLatency(0.9, "eager", height=10**15)}, UsageError, "can't be made|captured for"),
        ({"policy": KeepLatency(0.9, "eager", batch=10**15)}, UsageError, "can't be made"),
    ],
)
def test_what_the_shapes_decide_is_told_before_the_calibration(captured, monkeypatch, options, error, message):
    monkeypatch.setattr(job, "capture_pipeline", lambda pipe: captured)
    with pytest.raises(error, match=message):
        slimdiff_fx.slim(toys.text_to_image(), prompts=["a"], samples=1, steps=2, **options)


def test_a_billion_samples_stream(captured, monkeypatch, tmp_path):
    """They are neither listed nor counted one by one, and Ctrl-C is answered at once."""
    pipe, batches = toys.text_to_image(), []

    def observe(pipe, observed, batch, *_, **__):
        batches.append(batch)
        if len(batches) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("slimdiff_fx.calibration.run.observe_batch", observe)
    samples = gather_samples(pipe, prompts=["a", "b", "c"], images=None, samples=10**9, seed=0)
    settings = CalibrationSettings(Sampling(2, 3.0), batch=2, checkpoint=tmp_path / "run.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        observe_pipeline(pipe, captured, samples, settings)
    assert [sample.number for batch in batches for sample in batch] == list(range(6))
    conditions = [sample.condition for batch in batches for sample in batch]
    assert sorted(conditions[:3]) == ["a", "b", "c"]
    assert conditions[3:] == conditions[:3]
    record = load_record(settings.checkpoint)
    assert (record.done, record.total, record.settings["samples"]) == (4, 10**9, 10**9)
    assert record.settings["conditions"] == conditions[:3]


def test_records_of_long_lists_hold_their_beginning_and_a_digest():
    pipe = toys.text_to_image()
    made = []
    for last in ("x", "y"):
        prompts = [*map(str, range(10_500)), last]
        samples = gather_samples(pipe, prompts=prompts, images=None, samples=10**6, seed=0)
        made.append(describe_run(pipe, samples, CalibrationSettings(Sampling(2, 3.0))))
    assert [len(record["conditions"]) for record in made] == [10_000] * 2
    assert [record["distinct_conditions"] for record in made] == [10_501] * 2
    assert made[0]["conditions_sha256"] != made[1]["conditions_sha256"]


@pytest.mark.usefixtures("nothing_is_calibrated")
def test_budgets_on_the_command_line(toy_pipeline, captured, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "capture_pipeline", lambda pipe: captured)
    arguments = ("slim", toy_pipeline, "-o", tmp_path / "out", "--samples", "1", "--steps", "1")
    assert "ask for 0." in refused(*arguments, "--keep-params", "0.01")
    assert "--sequential is 99" in refused(*arguments, "--sequential", "99")
    assert not list(tmp_path.iterdir())


def test_a_plan_of_another_model_names_its_file(toy_pipeline, plan, captured, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PlanError("the plan is of another model")

    monkeypatch.setattr(job, "capture_pipeline", lambda pipe: captured)
    monkeypatch.setattr(job.Job, "carry_out", refuse)
    line = refused("apply", toy_pipeline, "--plan", plan, "-o", tmp_path / "out")
    assert line == f"error: {plan}: the plan is of another model"


def test_deep_json_in_a_configuration(toy_pipeline, tmp_path):
    folder = shutil.copytree(toy_pipeline, tmp_path / "pipeline")
    (folder / "unet" / "config.json").write_text('{"a":' * 100_000)
    assert str(folder / "unet" / "config.json") in refused("inspect", folder)
    shutil.copy(toy_pipeline / "unet" / "config.json", folder / "unet" / "config.json")
    (folder / "sampling.json").write_text('{"num_inference_steps": 0, "guidance_scale": NaN}')
    assert "sampling.json is garbled" in refused("inspect", folder)
    (folder / "sampling.json").unlink()
    (folder / "captions.json").write_text('{"train": "a rose"}')
    assert "captions.json is garbled ('train' is no list" in refused("slim", folder, "-o", tmp_path / "out")
