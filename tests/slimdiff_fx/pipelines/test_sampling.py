import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.sampling import (
    Sampling,
    condition,
    denoiser_name,
    draw,
    noise_generator,
    read_sampling,
    step_count,
    token_count,
)
from slimdiff_fx.pipelines.trajectory import observe_batch
from tests.toy_denoisers import FAMILIES


@pytest.fixture(scope="module")
def dit_pipe():
    transformer = FAMILIES["dit"](0, torch.float32)
    vae = AutoencoderKL(latent_channels=transformer.config.in_channels, norm_num_groups=4, block_out_channels=(8,))
    return DiTPipeline(transformer, vae, DDIMScheduler())


def test_defaults_beside_the_pipeline_come_before_its_own_and_after_the_users(tmp_path):
    assert read_sampling(None) == read_sampling(tmp_path) == Sampling(None, None)
    (tmp_path / "sampling.json").write_text(json.dumps({"num_inference_steps": 25, "guidance_scale": 3}))
    assert read_sampling(tmp_path) == Sampling(25, 3.0)
    assert read_sampling(tmp_path).given(4, None) == Sampling(4, 3.0)
    (tmp_path / "sampling.json").write_text("[]")
    with pytest.raises(CheckpointError, match="garbled"):
        read_sampling(tmp_path)
    with pytest.raises(UsageError, match="`steps` is 0"):
        Sampling().given(0, None)


def test_pipelines_are_told_apart_by_what_steers_them(dit_pipe):
    plain = DDPMPipeline(FAMILIES["unet_unconditional"](0, torch.float32), DDPMScheduler())
    assert (condition(plain), denoiser_name(plain), token_count(plain)) == ("nothing", "unet", None)
    assert (condition(dit_pipe), denoiser_name(dit_pipe)) == ("class_labels", "transformer")
    assert step_count(plain, Sampling()) == 1000
    assert step_count(plain, Sampling(steps=3)) == 3


def test_noise_depends_on_seed_and_sample_alone():
    first = {
        (seed, sample): torch.randn(4, generator=noise_generator(seed, sample)) for seed in (0, 1) for sample in (0, 1)
    }
    again = torch.randn(4, generator=noise_generator(1, 1))
    assert torch.equal(first[1, 1], again)
    assert len({tuple(values.tolist()) for values in first.values()}) == 4


def test_class_conditional_pipeline_calibrates_on_its_classes(dit_pipe):
    samples = gather_samples(dit_pipe, prompts=None, images=None, samples=3, seed=0)
    assert all(0 <= int(sample.condition) < dit_pipe.transformer.config.num_embeds_ada_norm for sample in samples)
    seen = []

    def observed(args, kwargs):
        seen.append((args[0].shape[0], kwargs["class_labels"].tolist()))
        channels = dit_pipe.transformer.config.out_channels
        return torch.zeros(args[0].shape[0], channels, *args[0].shape[2:])

    observe_batch(dit_pipe, observed, samples, Sampling(steps=2, guidance=4.0), seed=0)
    assert [rows for rows, _ in seen] == [6, 6]
    assert seen[0][1][:3] == [int(sample.condition) for sample in samples]
    with pytest.raises(UsageError, match="class label 'a dog'"):
        draw(dit_pipe, ["a dog"], 0, Sampling(steps=1))
