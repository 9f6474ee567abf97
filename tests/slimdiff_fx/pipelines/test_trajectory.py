import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from PIL import Image

from passes.errors import CalibrationError, UsageError
from slimdiff_fx.pipelines.inputs.images import CaptionedImage
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import Sampling, call_pipeline, noise_generator
from slimdiff_fx.pipelines.trajectory import Sample, chosen_steps, observe_batch, observed_steps
from tests.toy_denoisers import FAMILIES

SAMPLING = Sampling(steps=4, guidance=3.0)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("emoji").pipe


def samples(count, **fields):
    return [
        Sample(number, f"noto {word}", **fields) for number, word in enumerate(["cat face", "pizza", "rose"][:count])
    ]


def watch(pipe, batch, **options):
    """Record (sample, timestep) of each observed call, the plain forward doing the work."""
    forward, seen = type(pipe.unet).forward, []

    def observed(args, kwargs):
        seen.append((args[0].clone(), torch.as_tensor(args[1]).clone()))
        return forward(pipe.unet, *args, **{**kwargs, "return_dict": False})[0]

    observe_batch(pipe, observed, batch, SAMPLING, seed=5, **options)
    return seen


def test_observed_calls_are_those_of_plain_sampling_with_guidance(pipe):
    seen = watch(pipe, samples(2))
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(args[0].clone()))
    generators = [noise_generator(5, number) for number in range(2)]
    pipe.set_progress_bar_config(disable=True)
    call_pipeline(pipe, ["noto cat face", "noto pizza"], generators, SAMPLING, output_type="latent")
    handle.remove()
    assert len(seen) == len(calls) == 4
    assert seen[0][0].shape[0] == 4
    assert all(torch.equal(one[0], other) for one, other in zip(seen, calls, strict=True))


def test_pipeline_is_as_before_even_after_a_failure(pipe):
    before = dict(pipe.unet.__dict__)

    def fails(args, kwargs):
        raise RuntimeError("boom\nand more")

    with pytest.raises(CalibrationError, match=r"StableDiffusionPipeline failed .*sample 0 .*RuntimeError: boom\)"):
        observe_batch(pipe, fails, samples(1), SAMPLING, seed=0)
    assert pipe.unet.__dict__.keys() == before.keys()
    assert "forward" not in pipe.unet.__dict__


def test_noise_does_not_depend_on_the_batch(pipe):
    together = watch(pipe, samples(3))
    for number, sample in enumerate(samples(3)):
        alone = watch(pipe, [sample])
        assert torch.equal(alone[0][0][0], together[0][0][number])
        # Later steps differ by the rounding of batched convolutions.
        assert torch.allclose(alone[-1][0][0], together[-1][0][number], rtol=0, atol=1e-3)


def test_a_sample_of_steps_is_observed_and_the_rest_is_not_run(pipe):
    advanced = []
    seen = watch(pipe, samples(2), observe_steps=2, advance=advanced.append)
    chosen = sorted(chosen_steps(4, 2, 5))
    assert len(chosen) == len(seen) == 2
    everything = watch(pipe, samples(2))
    assert [time for _, time in seen] == [everything[step][1] for step in chosen]
    assert all(torch.equal(one, everything[step][0]) for (one, _), step in zip(seen, chosen, strict=True))
    assert len(advanced) == max(chosen) + 1 == max(observed_steps(pipe, SAMPLING, 2, 5)) + 1
    with pytest.raises(UsageError, match="`observe_steps` is 0"):
        chosen_steps(4, 0, 5)


def test_pictures_are_noised_at_stratified_timesteps_whatever_the_batch(pipe, tmp_path):
    pictures = []
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
        pictures.append(Sample(number, f"noto {colour} apple", CaptionedImage(tmp_path / f"{colour}.png", colour)))
    seen = watch(pipe, pictures)
    assert len(seen) == 4
    for step, (rows, times) in enumerate(seen):
        assert rows.shape == (4, 16, 8, 8)
        assert torch.equal(rows[:2], rows[2:])
        assert ((times * 4 // 1000) == 3 - step).all()
    alone = watch(pipe, pictures[1:])
    for (rows, times), (row, time) in zip(seen, alone, strict=True):
        assert times[1] == time[0]
        assert torch.allclose(rows[1], row[0], rtol=0, atol=1e-4)
    # At the last, least noisy step the latents of the two pictures are far apart.
    last = seen[-1][0]
    assert (last[0] - last[1]).abs().mean() > 0.1


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline])
def test_unconditional_pipelines(kind):
    unet = FAMILIES["unet_unconditional"](0, torch.float32)
    scheduler = DDPMScheduler() if kind is DDPMPipeline else DDIMScheduler()
    pipe = kind(unet, scheduler)
    seen = []

    def observed(args, kwargs):
        seen.append(args[0].shape[0])
        return torch.zeros_like(args[0])

    observe_batch(pipe, observed, [Sample(0, ""), Sample(1, "")], Sampling(steps=3), seed=0)
    assert seen == [2, 2, 2]
