"""A text-to-image pipeline with a tiny random UNet, for tests that need a pipeline and not its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from slimdiff_fx.pipelines.load import emoji_folder

CAPTIONS = {"train": ["red apple", "cat face", "pizza", "rose", "tulip"], "held_out": ["mushroom", "watermelon"]}


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    """Build a UNet of the built-in pipeline's inputs: two transformer blocks of 4 heads and 128 neurons each."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    # Weights that half precision holds exactly, as if they came from a half precision file.
    with torch.no_grad():
        for values in unet.parameters():
            values.copy_(values.half().float())
    return unet.eval()


def build_toy_pipeline(folder: Path) -> Path:
    """Write the pipeline, with captions and sampling defaults beside it, and give its folder."""
    pipe = DiffusionPipeline.from_pretrained(emoji_folder(), unet=tiny_unet(), dtype=torch.float32)
    pipe.to(torch.float16).save_pretrained(folder)
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))
    (folder / "sampling.json").write_text(json.dumps({"num_inference_steps": 2, "guidance_scale": 3.0}))
    return folder
