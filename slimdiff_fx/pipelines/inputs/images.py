"""Pictures with captions, as calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from passes.errors import UsageError
from slimdiff_fx.files.text_file import read_text
from slimdiff_fx.other_libraries import first_line
from slimdiff_fx.pipelines.inputs.prompts import check_text

# Pictures that are decoded to see whether they are whole: some ten seconds.
_DECODED = 1000
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class CaptionedImage:
    """A picture file and what it shows."""

    file: Path
    caption: str


def read_images(folder: Path, *, captioned: bool = True) -> tuple[CaptionedImage, ...]:
    """List the pictures of a folder; `cat.png` is described by `cat.txt` beside it. Sorted by name.

    Args:
        folder: where they are.
        captioned: each needs its caption; otherwise captions aren't looked for, and are empty.

    Raises:
        UsageError: no such folder, no pictures, or a picture without its caption file, or that is no text.
    """
    if not folder.is_dir():
        raise UsageError(f"image folder {folder} doesn't exist; give a folder of pictures with a .txt caption each")
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
    except OSError as error:
        raise UsageError(f"image folder {folder} can't be read ({error.strerror}); give another") from error
    if not files:
        raise UsageError(f"image folder {folder} holds no picture ({', '.join(_SUFFIXES)}); put some there")
    return tuple(CaptionedImage(file, _caption_of(file) if captioned else "") for file in files)


def _caption_of(file: Path) -> str:
    caption = file.with_suffix(".txt")
    if not caption.is_file():
        raise UsageError(f"{file} has no caption; write it to {caption.name} beside it")
    text = read_text(caption, "caption").strip()
    check_text(text, f"caption {caption}")
    return text


def check_pictures(files: Sequence[Path]) -> None:
    """Refuse files that can't be read as pictures, before hours of calibration.

    Up to a number of them are decoded; of the rest the beginning is looked at, which finds what is no picture but not
    what is cut off.

    Raises:
        UsageError: names the first such file.
    """
    for number, file in enumerate(files):
        with _opened(file) as picture:
            if number < _DECODED:
                picture.load()
            else:
                picture.verify()


def open_picture(file: Path, height: int, width: int) -> Image.Image:
    """Open a picture, cropped to the middle and scaled; RGB, on white.

    Raises:
        UsageError: the file is no picture.
    """
    with _opened(file) as opened:
        picture = opened.convert("RGBA")
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    return ImageOps.fit(flat.convert("RGB"), (width, height), Image.Resampling.LANCZOS)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as opened:
            yield opened
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error, zlib.error, ...
        raise UsageError(f"{file} can't be read as a picture ({first_line(error)}); mend or remove it") from error


def load_picture(file: Path, height: int, width: int) -> Tensor:
    """Load a picture, cropped to the middle and scaled; float32 [3, height, width] in [-1, 1], on white.

    Raises:
        UsageError: the file is no picture.
    """
    values = torch.frombuffer(bytearray(open_picture(file, height, width).tobytes()), dtype=torch.uint8)
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
