"""Train the UNet and the text encoder together on the autoencoder's latents."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from benchmarks.reference.schedule import steps
from benchmarks.reference.vae import LATENT_CHANNELS

BATCH = 64
LEARNING_RATE = 1e-3
CAPTIONS_DROPPED = 0.1
EMA_DECAY = 0.999


def build() -> UNet2DConditionModel:
    """Make the untrained UNet: SD 1.5's block types at two resolutions, 8 heads, GEGLU feed-forwards."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=8,
    )


def build_scheduler() -> DDIMScheduler:
    """Make the scheduler the model is trained for and samples with."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # trailing spacing has no use for it; the pipeline warns about any other value
    )


class Denoiser(nn.Module):
    """The UNet on the text encoder: what is trained, averaged and checkpointed as one."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Predict the velocity, [B, 16, 8, 8]."""
        text = self.text_encoder(tokens)[0]
        prediction: Tensor = self.unet(noisy, timesteps, text, return_dict=False)[0]
        return prediction


def train(
    model: Denoiser,
    latents: Tensor,
    tokens: Tensor,
    no_caption: Tensor,
    weights: Tensor,
    minutes: float,
    checkpoint: Callable[[Denoiser, int], None],
    every: int = 500,
) -> Denoiser:
    """Train for `minutes` and return the averaged weights.

    Args:
        model: what to train.
        latents: float [2, N, 16, 8, 8], each picture and its mirror image.
        tokens: int64 [N, T], the captions.
        no_caption: int64 [T], the empty caption, for classifier-free guidance.
        weights: float [N], how often each picture is drawn.
        minutes: the budget.
        checkpoint: called with the averaged model and the step every `every` steps and at the end.
        every: steps between checkpoints.
    """
    torch.manual_seed(0)
    scheduler = build_scheduler()
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2)
    running, step = 0.0, 0
    for step, factor in steps(minutes):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        chosen = torch.multinomial(weights, BATCH, replacement=True)
        clean = latents[torch.randint(2, (BATCH,)), chosen]
        captions = torch.where(torch.rand(BATCH, 1) < CAPTIONS_DROPPED, no_caption, tokens[chosen])
        noise, timesteps = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        loss = F.mse_loss(model(noisy, timesteps, captions), velocity)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running = loss.item() if step == 0 else 0.99 * running + 0.01 * loss.item()
        if step % 50 == 0:
            print(f"denoiser step {step} loss {running:.4f}", flush=True)
        if step and step % every == 0:
            checkpoint(average, step)
    checkpoint(average, step)
    return average


def save(model: Denoiser, folder: Path) -> None:
    """Write both parts as diffusers and transformers do."""
    model.unet.save_pretrained(folder / "unet")
    model.text_encoder.save_pretrained(folder / "text_encoder")
