"""Make the built-in pipeline `emoji` from nothing: `python -m benchmarks.reference all`.

Every stage leaves its result in the work folder and can be run again alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from benchmarks.reference import denoiser, pictures, pipeline, sheets, text, vae

SHIPPED = Path(__file__).parents[2] / "slimdiff_fx/assets/emoji"

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

Work = Annotated[Path, typer.Option(help="Folder for downloads, pictures, parts and checkpoints.")]
Minutes = Annotated[float, typer.Option(min=0.05, help="Training time.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where the pipeline folder goes.")]

WORK = Path("reference-work")


@app.command("pictures")
def make_pictures(work: Work = WORK) -> None:
    """Fetch the artwork (npm), render it to 64x64 and caption it."""
    made = pictures.load(work)
    print(f"{len(made.captions)} pictures, {int(made.held_out.sum())} captions held out")


@app.command("tokenizer")
def make_tokenizer(work: Work = WORK) -> None:
    """Learn the words of the captions."""
    made = text.build_tokenizer(pictures.load(work).captions, work / "tokenizer")
    print(f"{len(made)} tokens")


@app.command("vae")
def train_vae(work: Work = WORK, minutes: Minutes = 9.0, rounds: int = 2) -> None:
    """Train the autoencoder; a second round goes on from the first with a fresh learning-rate cycle."""
    for _ in range(rounds):
        vae.train(_training_images(work), minutes, work / "vae")


@app.command("denoiser")
def train_denoiser(work: Work = WORK, minutes: Minutes = 72.0) -> None:
    """Train UNet and text encoder; every checkpoint comes with a sheet of samples in `work/sheets`."""
    made = pictures.load(work)
    training = [c for c, held_out in zip(made.captions, made.held_out, strict=True) if not held_out]
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    autoencoder = AutoencoderKL.from_pretrained(work / "vae")
    images = _training_images(work)
    latents = torch.stack([vae.encode(autoencoder, images), vae.encode(autoencoder, images.flip(-1))])
    torch.manual_seed(0)
    model = denoiser.Denoiser(denoiser.build(), text.build_encoder(tokenizer))
    print(f"latents {tuple(latents.shape)}, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    def keep(average: denoiser.Denoiser, step: int) -> None:
        denoiser.save(average, work / "denoiser")
        sheets.draw(pipeline.write(work, made, work / "checkpoint"), work / f"sheets/step-{step:05d}.png")

    denoiser.train(
        model,
        latents,
        _tokens(tokenizer, training),
        _tokens(tokenizer, [""])[0],
        torch.from_numpy(pictures.sampling_weights(training)).float(),
        minutes,
        keep,
    )


@app.command("write")
def write(work: Work = WORK, output: Output = SHIPPED) -> None:
    """Write the trained parts as a pipeline folder with fp16 weights."""
    pipeline.write(work, pictures.load(work), output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.1f} MB")


@app.command("sheet")
def draw_sheet(folder: Path, path: Path, seed: int = 0) -> None:
    """Draw the sheet of samples of a pipeline FOLDER into the PNG at PATH."""
    sheets.draw(DiffusionPipeline.from_pretrained(folder), path, seed)


@app.command("all")
def make_all(
    work: Work = WORK, output: Output = SHIPPED, vae_minutes: Minutes = 9.0, denoiser_minutes: Minutes = 72.0
) -> None:
    """Run every stage: about 18 minutes for the autoencoder, 72 for the rest, on 2 cores."""
    make_pictures(work)
    make_tokenizer(work)
    train_vae(work, vae_minutes)
    train_denoiser(work, denoiser_minutes)
    write(work, output)


def _training_images(work: Path) -> Tensor:
    """Give the pictures that aren't held out, uint8 [N, 3, 64, 64]."""
    made = pictures.load(work)
    return torch.from_numpy(made.images).permute(0, 3, 1, 2).contiguous()[torch.from_numpy(~made.held_out)]


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Give int64 [N, 14]."""
    padded = tokenizer(captions, padding="max_length", truncation=True, max_length=text.MAX_TOKENS, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


if __name__ == "__main__":
    app()
