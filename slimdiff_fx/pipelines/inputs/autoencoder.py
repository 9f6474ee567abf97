"""From pictures to the latents that a pipeline's denoiser is trained on, whatever autoencoder it has."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from passes.errors import UsageError

_NAMES = ("vae", "vqvae")


def autoencoder(pipe: DiffusionPipeline) -> Any | None:
    """Give the pipeline's autoencoder; None where it denoises pictures themselves.

    Raises:
        UsageError: it has one, but in a place that this doesn't know.
    """
    for name in _NAMES:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return getattr(pipe, name)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and hasattr(part, "encode") and hasattr(part, "decode"):
            raise UsageError(
                f"how {type(pipe).__name__} makes latents of pictures by its {name} is not known; calibrate on "
                '`calibrate_on="trajectory"`'
            )
    return None


def picture_factor(pipe: DiffusionPipeline) -> int:
    """Say how many pixels of a picture become one of the latents, in each direction."""
    coder = autoencoder(pipe)
    if coder is None:
        return 1
    own = getattr(pipe, "vae_scale_factor", None)
    return int(own) if own is not None else 2 ** (len(coder.config.block_out_channels) - 1)


def latent_of(pipe: DiffusionPipeline, pictures: Tensor) -> Tensor:
    """Encode pictures, float [B, 3, H, W] in [-1, 1], to the latents the denoiser is trained on.

    Where the encoder gives a distribution its mean is taken: noise is added afterwards, and it makes the latents
    repeatable. Those of a tiny autoencoder come as they are. A pipeline without an autoencoder denoises the pictures
    themselves.
    """
    coder = autoencoder(pipe)
    if coder is None:
        return pictures
    with torch.no_grad():
        encoded = coder.encode(pictures.to(coder.device, coder.dtype))
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    config = coder.config
    scale = float(getattr(config, "scaling_factor", None) or 1.0)
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:  # by channel, as some of SDXL's autoencoders have it
        mean, deviation = (torch.tensor(each).to(latents).view(1, -1, 1, 1) for each in (mean, deviation))
        return (latents - mean) * scale / deviation
    return (latents - (getattr(config, "shift_factor", None) or 0.0)) * scale
