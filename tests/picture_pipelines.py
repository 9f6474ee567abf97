"""Pipelines that take pictures, out of the built-in pipeline's parts and tiny random denoisers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from slimdiff_fx.pipelines.load import emoji_folder
from tests.toy_pipeline import tiny_unet


def text_to_image(**parts: Any) -> DiffusionPipeline:
    """Give the built-in pipeline with a tiny UNet."""
    pipe = DiffusionPipeline.from_pretrained(emoji_folder(), unet=tiny_unet(), **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_autoencoder() -> AutoencoderTiny:
    """Give a tiny autoencoder of the built-in one's latents, that scales and shifts."""
    torch.manual_seed(1)
    widths = (8,) * 4
    coder = AutoencoderTiny(latent_channels=16, encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    coder.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    return coder.eval()


def img2img() -> StableDiffusionImg2ImgPipeline:
    """Give one that starts from a picture."""
    return StableDiffusionImg2ImgPipeline(**text_to_image().components, requires_safety_checker=False)


def inpainting(channels: int = 9) -> StableDiffusionInpaintPipeline:
    """Give one that fills in: 9 channels are latents, mask and masked latents, 4 are latents alone."""
    torch.manual_seed(2)
    widths = (8,) * 4
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    parts = {**text_to_image().components, "unet": wide_unet(channels, 4), "vae": vae}
    return StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def instructed() -> StableDiffusionInstructPix2PixPipeline:
    """Give one that edits a picture as it is told."""
    parts = {**text_to_image().components, "unet": wide_unet(32)}
    return StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def upscaling() -> StableDiffusionUpscalePipeline:
    """Give one that enlarges a picture of the latents' size."""
    parts = {**text_to_image().components, "unet": wide_unet(19, num_class_embeds=100)}
    for name in ("safety_checker", "feature_extractor", "image_encoder"):
        parts.pop(name, None)
    return StableDiffusionUpscalePipeline(**parts, low_res_scheduler=DDPMScheduler(), max_noise_level=50)


def variations() -> StableDiffusionImageVariationPipeline:
    """Give one that draws something like a picture, by what an encoder sees in it."""
    torch.manual_seed(3)
    parts = text_to_image().components
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            projection_dim=128,
        )
    ).eval()
    extractor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return StableDiffusionImageVariationPipeline(
        parts["vae"], encoder, parts["unet"], parts["scheduler"], None, extractor, requires_safety_checker=False
    )


def wide_unet(channels: int, out: int = 16, **config: Any) -> UNet2DConditionModel:
    """Give a UNet with more channels in than out."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=out,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=4,
        **config,
    ).eval()


def write_pictures(folder: Any, *, captioned: bool = True, count: int = 2) -> Any:
    """Write pictures of noise, each with its caption, and give the folder."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        values = torch.randint(256, (64 * 72 * 3,), generator=torch.Generator().manual_seed(number))
        Image.frombytes("RGB", (72, 64), bytes(values.tolist())).save(folder / f"{number}.png")
        if captioned:
            (folder / f"{number}.txt").write_text(f"noto apple {number}")
    return folder
