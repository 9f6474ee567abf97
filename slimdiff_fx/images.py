"""Pictures with captions, as calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from passes.errors import UsageError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class CaptionedImage:
    """A picture file and what it shows."""

    file: Path
    caption: str


def read_images(folder: Path) -> tuple[CaptionedImage, ...]:
    """List the pictures of a folder; `cat.png` is described by `cat.txt` beside it. Sorted by name.

    Raises:
        UsageError: no such folder, no pictures, or a picture without its caption file.
    """
    if not folder.is_dir():
        raise UsageError(f"image folder {folder} doesn't exist; give a folder of pictures with a .txt caption each")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise UsageError(f"image folder {folder} holds no picture ({', '.join(_SUFFIXES)}); put some there")
    return tuple(CaptionedImage(file, _caption_of(file)) for file in files)


def _caption_of(file: Path) -> str:
    caption = file.with_suffix(".txt")
    if not caption.is_file():
        raise UsageError(f"{file} has no caption; write it to {caption.name} beside it")
    return caption.read_text(encoding="utf-8").strip()


def load_picture(file: Path, height: int, width: int) -> Tensor:
    """Load a picture, cropped to the middle and scaled; float32 [3, height, width] in [-1, 1], on white.

    Raises:
        UsageError: the file is no picture.
    """
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"{file} can't be read as a picture ({error}); mend or remove it") from error
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    scale = max(width / flat.width, height / flat.height)
    size = max(width, round(flat.width * scale)), max(height, round(flat.height * scale))
    scaled = flat.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    cropped = scaled.crop((left, top, left + width, top + height))
    values = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8)
    return values.view(height, width, 3).permute(2, 0, 1).float() / 127.5 - 1.0


def stratified_timesteps(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """Draw one timestep from each of `count` equal parts of the scheduler's range; int64 [count], descending.

    Stratifying covers the range evenly with any count, where free draws would leave holes.
    """
    offsets = torch.rand(count, generator=generator, dtype=torch.float64)
    drawn = (torch.arange(count, dtype=torch.float64) + offsets) * (timesteps / count)
    return drawn.long().clamp_(0, timesteps - 1).flip(0)


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Mix latents [B, ...] with noise as the scheduler does at `timesteps` int64 [B].

    √ᾱ·x + √(1−ᾱ)·ε is the denoiser's input under every scheduler with a discrete variance-preserving schedule;
    those that work in σ, such as Euler's, arrive at it after their input scaling.
    """
    shape = (-1, *([1] * (latents.dim() - 1)))
    kept = alphas_cumprod.to(latents.device, torch.float64)[timesteps.to(latents.device)].view(shape)
    mixed = kept.sqrt() * latents.double() + (1.0 - kept).sqrt() * noise.to(latents.device).double()
    return mixed.to(latents.dtype)
