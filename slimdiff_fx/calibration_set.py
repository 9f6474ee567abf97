"""What a pipeline is calibrated on: prompts, pictures, or what it brings along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline

from passes.errors import UsageError
from slimdiff_fx.images import CaptionedImage, read_images
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.output_paths import expand
from slimdiff_fx.prompts import choose_samples, read_captions
from slimdiff_fx.residual_inputs import pipeline_residuals
from slimdiff_fx.sampling import condition, denoiser_name
from slimdiff_fx.trajectory import Sample

CALIBRATE_ON = ("trajectory", "pictures")


def gather_samples(
    pipe: DiffusionPipeline,
    *,
    prompts: Sequence[str] | None,
    images: str | Path | None,
    samples: int,
    seed: int,
    listener: Listener = SILENT,
    folder: Path | None = None,
    calibrate_on: str | None = None,
) -> tuple[Sample, ...]:
    """Make the calibration set out of prompts, pictures, or what the pipeline brings along.

    Args:
        pipe: the pipeline.
        prompts: texts.
        images: folder of pictures with captions.
        samples: how many.
        seed: of the choice.
        listener: told if there are fewer prompts than samples.
        folder: the pipeline's own, which may hold captions.
        calibrate_on: "trajectory" follows the model's own denoising from pure noise, also where pictures are given:
            then their captions are the prompts; "pictures" adds noise to them. By default pictures, where there are.

    Raises:
        UsageError: there is nothing to calibrate on, what is given contradicts itself, or the pipeline needs a control
            picture for each prompt.
    """
    if pipeline_residuals(pipe):
        raise UsageError(
            f"{type(pipe).__name__} wants a control picture for each prompt, and calibration has none; slim the unet "
            "in the pipeline without it, and pass the slim one on: from_pipe(..., unet=slim.unet, controlnet=...)"
        )
    if calibrate_on not in (None, *CALIBRATE_ON):
        raise UsageError(f"calibrate on {calibrate_on!r}? there are {' and '.join(CALIBRATE_ON)}")
    if prompts is not None and images is not None:
        raise UsageError("prompts and images are given together; give one of them")
    if calibrate_on == "pictures" and images is None:
        raise UsageError("--calibrate-on pictures needs pictures; give --images DIR")
    if images is not None:
        pictures = read_images(expand(images))
        names, note = choose_samples([str(number) for number in range(len(pictures))], samples, seed)
        chosen: list[CaptionedImage | None] = [pictures[int(name)] for name in names]
        conditions = [picture.caption for picture in chosen if picture is not None]
        note = note and note.replace("prompts", "pictures")
        if calibrate_on == "trajectory":
            chosen = [None] * samples
    else:
        conditions_given = prompts if prompts is not None else _own_conditions(pipe, folder)
        picked, note = choose_samples(conditions_given, samples, seed)
        conditions, chosen = list(picked), [None] * samples
    if note:
        listener.note(note)
    return tuple(
        Sample(number, text, picture) for number, (text, picture) in enumerate(zip(conditions, chosen, strict=True))
    )


def _own_conditions(pipe: DiffusionPipeline, folder: Path | None) -> Sequence[str]:
    """Find what a pipeline can be calibrated on when nothing was given."""
    steered_by = condition(pipe)
    if steered_by == "nothing":
        return ("",)
    if steered_by == "class_labels":
        return [str(number) for number in range(getattr(pipe, denoiser_name(pipe)).config.num_embeds_ada_norm)]
    source = folder if folder is not None else Path(str(pipe.config.get("_name_or_path") or ""))
    return read_captions(source, "train")
