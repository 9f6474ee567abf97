"""Pipelines that take pictures: what reaches their denoiser is what they and the noise schedule give by hand."""

import functools

import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from passes.errors import UsageError
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.rehearse import rehearse
from slimdiff_fx.pipelines.inputs.autoencoder import latent_of, picture_factor
from slimdiff_fx.pipelines.inputs.images import load_picture
from slimdiff_fx.pipelines.inputs.picture_inputs import picture_inputs
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.sampling import Sampling, call_pipeline, draw, noise_generator
from slimdiff_fx.pipelines.trajectory import NoisyPictures, observe_batch
from tests import picture_pipelines as toys
from tests.toy_denoisers import FAMILIES

SAMPLING = Sampling(steps=3, guidance=3.0)
TAKE_PICTURES = {
    "img2img": toys.img2img,
    "inpainting": toys.inpainting,
    "inpainting by latents alone": lambda: toys.inpainting(4),
    "InstructPix2Pix": toys.instructed,
    "upscaling": toys.upscaling,
}


@pytest.fixture
def pictures(tmp_path):
    return toys.write_pictures(tmp_path / "pictures")


def gather(pipe, pictures, **options):
    return gather_samples(pipe, prompts=None, images=pictures, samples=2, seed=0, **options)


def watch(pipe, samples, **options):
    """Record what the denoiser is called with, at each observed step."""
    seen = []

    def observed(args, kwargs):
        seen.append((args[0].clone(), torch.as_tensor(args[1]).clone()))
        return args[0].new_zeros(args[0].shape[0], pipe.unet.config.out_channels, *args[0].shape[2:])

    observe_batch(pipe, observed, samples, SAMPLING, seed=5, **options)
    return seen


@pytest.mark.parametrize("name", TAKE_PICTURES)
@pytest.mark.parametrize("calibrate_on", [None, "trajectory"])
def test_they_calibrate_on_pictures_and_on_their_own_trajectory(name, calibrate_on, pictures):
    pipe = TAKE_PICTURES[name]()
    samples = gather(pipe, pictures, calibrate_on=calibrate_on)
    assert [sample.from_picture for sample in samples] == [calibrate_on is None] * 2
    settings = CalibrationSettings(SAMPLING, seed=5)
    rehearse(pipe, samples, settings)
    seen = watch(pipe, samples)
    assert len(seen) == 3
    copies = 3 if name == "InstructPix2Pix" else 2
    assert all(rows.shape == (2 * copies, pipe.unet.config.in_channels, 8, 8) for rows, _ in seen)
    assert "forward" not in pipe.unet.__dict__
    few = watch(pipe, samples, observe_steps=1)
    assert len(few) == 1


def own_first_call(pipe, samples):
    """Give the denoiser's first input as the pipeline itself makes it of the pictures."""
    calls = []

    class Stop(Exception):
        pass

    def stop(module, args, kwargs):
        calls.append(args[0])
        raise Stop

    handle = pipe.unet.register_forward_pre_hook(stop, with_kwargs=True)
    files = [sample.image.file for sample in samples]
    generators = [noise_generator(5, sample.number) for sample in samples]
    with pytest.raises(Stop):
        call_pipeline(
            pipe,
            [sample.condition for sample in samples],
            generators,
            SAMPLING,
            output_type="latent",
            extra=picture_inputs(pipe, files),
        )
    handle.remove()
    return calls[0]


@pytest.mark.parametrize("name", ["inpainting", "InstructPix2Pix", "upscaling"])
def test_channels_beyond_the_latents_are_the_pipelines_own(name, pictures):
    pipe = TAKE_PICTURES[name]()
    samples = gather(pipe, pictures)
    own = own_first_call(pipe, samples)
    latents = pipe.vae.config.latent_channels
    for rows, _ in watch(pipe, samples):
        assert torch.equal(rows[:, latents:], own[:, latents:])
        assert not torch.equal(rows[:, :latents], own[:, :latents])


def test_instruct_pix2pix_is_given_the_noisy_latents_and_those_of_its_picture(pictures):
    pipe = toys.instructed()
    samples = gather(pipe, pictures)
    clean = torch.stack([load_picture(sample.image.file, 64, 64) for sample in samples])
    with torch.no_grad():
        encoded = pipe.vae.encode(clean).latent_dist.mode()
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    latents = (encoded - shift) * pipe.vae.config.scaling_factor
    alphas = DDPMScheduler.from_config(pipe.scheduler.config).alphas_cumprod
    generators = [noise_generator(6, sample.number) for sample in samples]
    for each in generators:
        torch.rand(3, generator=each, dtype=torch.float64)  # the timesteps
    for rows, timesteps in watch(pipe, samples):
        noise = torch.stack([torch.randn(16, 8, 8, generator=each) for each in generators])
        kept = alphas[timesteps[:2].long()].view(2, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        # text, picture, neither: the last has no picture. The pipeline brings pixels to [-1, 1] in another order.
        for block in range(3):
            assert (rows[2 * block : 2 * block + 2, :16] - noisy).abs().max() < 1e-5 * noisy.abs().max()
            if block < 2:
                given = rows[2 * block : 2 * block + 2, 16:]
                assert (given - encoded).abs().max() < 1e-4 * encoded.abs().max()
        assert rows[4:, 16:].abs().max() == 0


def test_without_guidance_instruct_pix2pix_is_called_once_for_each(pictures):
    pipe = toys.instructed()
    seen = []

    def observed(args, kwargs):
        seen.append(args[0].shape[0])
        return args[0][:, :16]

    observe_batch(pipe, observed, gather(pipe, pictures), Sampling(steps=2, guidance=1.0), seed=0)
    assert seen == [2, 2]


def test_a_tiny_autoencoder_s_latents_come_as_they_are_shifted_and_scaled(pictures):
    pipe = toys.text_to_image(vae=toys.tiny_autoencoder())
    samples = gather(pipe, pictures)
    clean = torch.stack([load_picture(sample.image.file, 64, 64) for sample in samples])
    with torch.no_grad():
        wanted = (pipe.vae.encode(clean).latents - 0.25) * 0.5
    assert picture_factor(pipe) == 8
    assert torch.equal(latent_of(pipe, clean), wanted)
    rehearse(pipe, samples, CalibrationSettings(SAMPLING))
    assert len(watch(pipe, samples)) == 3


def test_latents_with_a_mean_and_deviation_of_each_channel():
    pipe = toys.text_to_image()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        encoded = pipe.vae.encode(pictures).latent_dist.mode()
    mean, deviation = torch.arange(16) / 4, torch.arange(1, 17) / 8
    pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist(), scaling_factor=2.0)
    wanted = (encoded - mean.view(1, 16, 1, 1)) * 2.0 / deviation.view(1, 16, 1, 1)
    assert torch.allclose(latent_of(pipe, pictures), wanted, rtol=0, atol=1e-5)


def test_pictures_go_into_denoisers_that_are_called_by_keyword(pictures):
    """PixArt's timestep is not its second argument."""
    model = FAMILIES["pixart"](0, torch.float32)

    class Pipe:
        transformer, scheduler, components, vae = model, DDPMScheduler(), {}, None

    channels = model.config.in_channels
    samples = gather(toys.text_to_image(), pictures)
    noisy = NoisyPictures(Pipe(), samples, 0)
    noisy.encode = lambda sample: torch.ones(2, channels, 8, 8)
    text = torch.zeros(4, 3, 5)
    (first,), kwargs = noisy.put_in(
        (torch.zeros(4, channels, 8, 8),), {"encoder_hidden_states": text, "timestep": torch.zeros(4)}, 0, 4
    )
    assert first.abs().min() > 0
    assert kwargs["encoder_hidden_states"] is text
    assert torch.equal(kwargs["timestep"][:2], kwargs["timestep"][2:])
    assert (kwargs["timestep"] >= 750).all()
    assert noisy.no_prediction.shape == (4, model.config.out_channels, 8, 8)


def test_unconditional_pipelines_need_no_captions_and_take_no_prompts(tmp_path):
    pipe = DDPMPipeline(FAMILIES["unet_unconditional"](0, torch.float32), DDPMScheduler())
    folder = toys.write_pictures(tmp_path / "bare", captioned=False)
    samples = gather(pipe, folder)
    assert [sample.condition for sample in samples] == ["", ""]
    rehearse(pipe, samples, CalibrationSettings(Sampling(steps=2)))
    with pytest.raises(UsageError, match="DDPMPipeline takes no prompts; leave `prompts` out"):
        gather_samples(pipe, prompts=["a"], images=None, samples=1, seed=0)


def test_noise_is_not_added_where_the_denoiser_is_given_something_else(pictures):
    parts = toys.text_to_image().components
    samples = gather(toys.text_to_image(), pictures)
    flow = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    flow.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        UsageError, match=r"FlowMatchEulerDiscreteScheduler's schedule .*give `calibrate_on=\"trajectory\"`"
    ):
        rehearse(flow, samples, CalibrationSettings(SAMPLING))


def test_timesteps_that_are_none_of_the_schedule_s_are_noticed(pictures):
    class InLogarithms(StableDiffusionPipeline):
        """Gives its denoiser another measure of noise, as the latent upscaler does."""

        @functools.wraps(StableDiffusionPipeline.__call__)
        def __call__(self, *args, **kwargs):
            plain = self.unet.forward
            self.unet.forward = lambda sample, timestep, *rest, **more: plain(sample, -0.25, *rest, **more)
            try:
                return super().__call__(*args, **kwargs)
            finally:
                self.unet.forward = plain

    pipe = InLogarithms(**toys.text_to_image().components, requires_safety_checker=False)
    with pytest.raises(
        UsageError, match=r"-0.25 for a timestep, which is none of .*give `calibrate_on=\"trajectory\"`"
    ):
        rehearse(pipe, gather(pipe, pictures), CalibrationSettings(SAMPLING))
    rehearse(pipe, gather(pipe, pictures, calibrate_on="trajectory"), CalibrationSettings(SAMPLING))


def test_image_variations_need_no_captions(tmp_path):
    pipe = toys.variations()
    samples = gather(pipe, toys.write_pictures(tmp_path / "bare", captioned=False))
    rehearse(pipe, samples, CalibrationSettings(SAMPLING))
    seen = watch(pipe, samples)
    assert [rows.shape for rows, _ in seen] == [(4, 16, 8, 8)] * 3
    for prompts in (["a"], None):
        with pytest.raises(UsageError, match="needs pictures"):
            gather_samples(pipe, prompts=prompts, images=None, samples=1, seed=0)


def test_drawing_gives_pictures_and_masks(pictures):
    pipe = toys.inpainting()
    files = sorted(pictures.glob("*.png"))
    drawn = draw(pipe, ["a", "b"], 0, Sampling(1), 1, given=lambda rows: picture_inputs(pipe, files[rows]))
    assert [picture.size for picture in drawn] == [(64, 64)] * 2
    with Image.open(files[0]) as picture:
        assert picture.size == (72, 64)


def test_without_pictures_the_pipeline_to_slim_instead_is_named():
    with pytest.raises(UsageError, match=r"give `images`; or slim AutoPipelineForText2Image.from_pipe\(pipe\)"):
        gather_samples(toys.img2img(), prompts=["a"], images=None, samples=1, seed=0)
    with pytest.raises(UsageError, match=r"InstructPix2PixPipeline needs pictures to calibrate on; give `images`$"):
        gather_samples(toys.instructed(), prompts=["a"], images=None, samples=1, seed=0)


def test_what_calibration_has_not_is_named_before_the_work(pictures):
    class Demanding(StableDiffusionPipeline):
        def __call__(self, prompt, token_indices, boxes, num_inference_steps=2, **more):
            raise AssertionError("called")

    pipe = Demanding(**toys.text_to_image().components, requires_safety_checker=False)
    with pytest.raises(UsageError, match="Demanding must be called with token_indices, boxes"):
        gather_samples(pipe, prompts=["a"], images=None, samples=1, seed=0)


def test_latents_that_don_t_come_first_are_noticed(pictures):
    class Swapped(StableDiffusionInstructPix2PixPipeline):
        """Gives its denoiser the picture's latents first, as Marigold does."""

        @functools.wraps(StableDiffusionInstructPix2PixPipeline.__call__)
        def __call__(self, *args, **kwargs):
            plain = self.unet.forward

            def swapped(sample, *rest, **more):
                return plain(torch.cat([sample[:, 16:], sample[:, :16]], 1), *rest, **more)

            self.unet.forward = swapped
            try:
                return super().__call__(*args, **kwargs)
            finally:
                self.unet.forward = plain

    pipe = toys.instructed()
    pipe.__class__ = Swapped
    samples = gather(pipe, pictures)
    with pytest.raises(UsageError, match="latents are not the first channels"):
        rehearse(pipe, samples, CalibrationSettings(SAMPLING))
