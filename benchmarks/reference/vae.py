"""Train the autoencoder: 64x64 pictures to 8x8 latents with 16 channels, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reference.schedule import steps

CHANNELS = (16, 32, 64, 96)
LATENT_CHANNELS = 16
KL_WEIGHT = 3e-6
LEARNING_RATE = 2e-3
BATCH = 24


def build() -> AutoencoderKL:
    """Make the untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def train(images: Tensor, minutes: float, folder: Path) -> AutoencoderKL:
    """Train on `images` (uint8 [N, 3, 64, 64]) and fold the latents' mean and deviation into the weights.

    A second run goes on from what `folder` holds.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(folder) if folder.exists() else build()
    vae = vae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    for step, factor in steps(minutes):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        batch = to_signal(images[torch.randint(len(images), (BATCH,))])
        flipped = torch.rand(BATCH) < 0.5
        batch[flipped] = batch[flipped].flip(-1)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss = _reconstruction(decoded.float(), batch) + KL_WEIGHT * posterior.kl().float().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"vae step {step} loss {loss.item():.4f}", flush=True)
    vae = vae.eval().to(memory_format=torch.contiguous_format)
    normalize_latents(vae, images)
    vae.save_pretrained(folder)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode uint8 [N, 3, 64, 64] to the posterior's means, float [N, 16, 8, 8]."""
    return torch.cat([vae.encode(to_signal(part)).latent_dist.mean for part in images.split(128)])


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 by rescaling the 1x1 convolutions around the latents.

    `StableDiffusionPipeline` knows one scaling factor and no shift; with the scale of each channel inside the
    weights, the factor is 1.
    """
    latents = encode(vae, images)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None
    assert out is not None
    into.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    into.bias[:LATENT_CHANNELS] = (into.bias[:LATENT_CHANNELS] - mean) / deviation
    into.bias[LATENT_CHANNELS:] -= 2 * deviation.log()  # the second half is the log variance
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]


def to_signal(images: Tensor) -> Tensor:
    """Turn uint8 [0, 255] into float [-1, 1]."""
    return images.float() / 127.5 - 1


def _reconstruction(decoded: Tensor, target: Tensor) -> Tensor:
    error = decoded - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return F.l1_loss(decoded, target) + 0.5 * edges
