"""Write the trained parts as one `StableDiffusionPipeline` folder with fp16 weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.reference.denoiser import build_scheduler
from benchmarks.reference.pictures import Pictures

SAMPLING = {"num_inference_steps": 25, "guidance_scale": 3.0}


def write(parts: Path, pictures: Pictures, folder: Path) -> StableDiffusionPipeline:
    """Assemble `parts` (vae, tokenizer, denoiser/unet, denoiser/text_encoder) into a pipeline folder.

    Beside the pipeline go `captions.json`, the captions trained on, for calibration, and those held out, for tests;
    and `sampling.json`, the steps and guidance that it draws best with.
    """
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(parts / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(parts / "denoiser/text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(parts / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(parts / "denoiser/unet"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    _load_text_encoder_in_float32(folder)
    for part in ("unet", "vae"):
        _forget_origin(folder / part / "config.json")
    split = {
        "train": [c for c, out in zip(pictures.captions, pictures.held_out, strict=True) if not out],
        "held_out": [c for c, out in zip(pictures.captions, pictures.held_out, strict=True) if out],
    }
    (folder / "captions.json").write_text(json.dumps(split, indent=0, ensure_ascii=False) + "\n")
    (folder / "sampling.json").write_text(json.dumps(SAMPLING) + "\n")
    return pipe


def _load_text_encoder_in_float32(folder: Path) -> None:
    """Make the stored precision a matter of disk space only.

    With no dtype asked for, diffusers loads its parts in float32 and transformers in what their configuration says.
    Left at float16, `DiffusionPipeline.from_pretrained(folder)` would give a pipeline that can't run.
    """
    path = folder / "text_encoder/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _forget_origin(config: Path) -> None:
    """Drop the folder that a part was loaded from: it names a place on the training machine."""
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
