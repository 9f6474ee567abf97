import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from PIL import Image

from passes.errors import UsageError
from slimdiff_fx.pipelines.inputs.images import add_noise, load_picture, read_images, stratified_timesteps


def test_pictures_come_with_their_captions(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "a.jpg")
    (tmp_path / "b.txt").write_text(" a red square \n")
    with pytest.raises(UsageError, match=r"a\.jpg has no caption"):
        read_images(tmp_path)
    (tmp_path / "a.txt").write_text("a blue square")
    assert [(image.file.name, image.caption) for image in read_images(tmp_path)] == [
        ("a.jpg", "a blue square"),
        ("b.png", "a red square"),
    ]


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no picture"):
        read_images(tmp_path)
    with pytest.raises(UsageError, match="doesn't exist"):
        read_images(tmp_path / "none")


def test_pictures_are_cropped_scaled_and_laid_on_white(tmp_path):
    picture = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (8, 0, 12, 10))
    picture.save(tmp_path / "a.png")
    values = load_picture(tmp_path / "a.png", 10, 10)
    assert values.shape == (3, 10, 10)
    assert values[:, 5, 5].tolist() == [1.0, -1.0, -1.0]
    assert values[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert load_picture(tmp_path / "a.png", 24, 16).shape == (3, 24, 16)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"b\.png can't be read"):
        load_picture(tmp_path / "b.png", 4, 4)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_timesteps_are_one_of_each_stratum(count):
    drawn = stratified_timesteps(count, 1000, torch.Generator().manual_seed(0))
    strata = (drawn.double() * count / 1000).floor()
    assert strata.tolist() == list(range(count - 1, -1, -1))


def test_noise_is_the_schedulers():
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", num_train_timesteps=1000)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=generator)
    timesteps = torch.tensor([3, 500, 999])
    ours = add_noise(latents, noise, scheduler.alphas_cumprod, timesteps)
    assert torch.allclose(ours, scheduler.add_noise(latents, noise, timesteps), rtol=0, atol=1e-6)


def test_noise_is_what_euler_arrives_at_after_scaling():
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", num_train_timesteps=1000)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 4, 4, 4, generator=generator)
    timestep = scheduler.timesteps[3]
    assert float(timestep).is_integer()
    noisy = scheduler.add_noise(latents, noise, timestep[None])
    expected = scheduler.scale_model_input(noisy, timestep)
    ours = add_noise(latents, noise, scheduler.alphas_cumprod, timestep.long()[None])
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
