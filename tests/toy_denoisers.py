"""Tiny denoisers with random weights, one of every family that has to work; sizes are drawn by seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

Build = Callable[[int, torch.dtype], nn.Module]


def _finish(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    # Fresh norms and zero-initialised layers would hide mistakes: an all-ones scale or a zero bias removes nothing.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                noise = 0.1 * torch.randn_like(parameter)
                parameter.copy_(noise if name.endswith("bias") else 1 + noise)
            elif not parameter.any():
                parameter.normal_(std=0.1)
    return model.to(dtype).eval()


def _unet(seed: int, dtype: torch.dtype, **options: object) -> nn.Module:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads = draw.choice([2, 4])
    head_dim = draw.choice([4, 8])
    settings: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (heads * head_dim, 2 * heads * head_dim),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": draw.choice([12, 20]),
        # diffusers reads this as the number of heads, whatever it is called
        "attention_head_dim": heads,
        "norm_num_groups": 4,
    }
    settings.update(options)
    return _finish(UNet2DConditionModel(**settings), dtype)


def unet_sd15(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a UNet as in Stable Diffusion 1.x: convolutions around the transformer blocks."""
    return _unet(seed, dtype)


def unet_sd21(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a UNet as in Stable Diffusion 2.x: linear projections, another number of heads at each level."""
    draw = random.Random(seed)
    head_dim = draw.choice([4, 8])
    return _unet(
        seed,
        dtype,
        use_linear_projection=True,
        block_out_channels=(2 * head_dim, 4 * head_dim),
        attention_head_dim=(2, 4),
    )


def unet_sdxl(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a UNet as in SDXL: pooled text and time ids as added conditions, two transformer layers at the bottom."""
    head_dim = random.Random(seed).choice([4, 8])
    return _unet(
        seed,
        dtype,
        use_linear_projection=True,
        block_out_channels=(2 * head_dim, 4 * head_dim),
        attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )


def unet_inpaint(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build an inpainting UNet: latents, mask and masked image make nine channels in, four out."""
    return _unet(seed, dtype, in_channels=9)


def unet_unconditional(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build an unconditional UNet; its attention has a GroupNorm before and a residual around it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    head_dim = draw.choice([4, 8])
    model = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(2 * head_dim, 4 * head_dim),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=head_dim,
        norm_num_groups=4,
    )
    return _finish(model, dtype)


def pixart(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a PixArt-alpha transformer: adaptive layer norms, cross-attention with a text mask."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, head_dim = draw.choice([2, 3, 4]), draw.choice([8, 16])
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=heads * head_dim,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        caption_channels=draw.choice([12, 20]),
        use_additional_conditions=False,
    )
    return _finish(model, dtype)


def dit(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build a class-conditional DiT."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    heads, head_dim = draw.choice([2, 3, 4]), draw.choice([8, 16])
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=16,
    )
    return _finish(model, dtype)


FAMILIES: dict[str, Build] = {
    "unet_sd15": unet_sd15,
    "unet_sd21": unet_sd21,
    "unet_sdxl": unet_sdxl,
    "unet_inpaint": unet_inpaint,
    "unet_unconditional": unet_unconditional,
    "pixart": pixart,
    "dit": dit,
}
