"""How a pipeline is called: which arguments it takes, and which it should be given when the user says nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.quiet import quiet_pipeline

SAMPLING_FILE = "sampling.json"
DENOISERS = ("unet", "transformer")


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; None leaves the pipeline's own default.

    Attributes:
        steps: denoising steps.
        guidance: classifier-free guidance scale.
    """

    steps: int | None = None
    guidance: float | None = None

    def given(self, steps: int | None, guidance: float | None) -> Sampling:
        """Put what the user asked for before the defaults.

        Raises:
            UsageError: steps below 1.
        """
        if steps is not None and steps < 1:
            raise UsageError(f"--steps is {steps}; give at least 1")
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
        )


def read_sampling(folder: Path | None) -> Sampling:
    """Read the sampling defaults that lie beside a pipeline's model_index.json, if any do.

    Raises:
        CheckpointError: the file is garbled.
    """
    file = None if folder is None else folder / SAMPLING_FILE
    if file is None or not file.is_file():
        return Sampling()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        steps, guidance = data.get("num_inference_steps"), data.get("guidance_scale")
        return Sampling(None if steps is None else int(steps), None if guidance is None else float(guidance))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is garbled ({error}); mend or delete it") from error


def denoiser_name(pipe: DiffusionPipeline) -> str:
    """Name the component that denoises: "unet" or "transformer".

    Raises:
        UsageError: the pipeline has neither.
    """
    for name in DENOISERS:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise UsageError(f"{type(pipe).__name__} has no unet and no transformer; give a diffusion pipeline")


def call_parameters(pipe: DiffusionPipeline) -> Mapping[str, inspect.Parameter]:
    """List the parameters of the pipeline's call."""
    return inspect.signature(type(pipe).__call__).parameters


def condition(pipe: DiffusionPipeline) -> str:
    """Say what steers the pipeline: "prompt", "class_labels", or "nothing"."""
    parameters = call_parameters(pipe)
    return next((name for name in ("prompt", "class_labels") if name in parameters), "nothing")


def is_inpainting(pipe: DiffusionPipeline) -> bool:
    """Say whether the pipeline must be given a picture and a mask."""
    return {"image", "mask_image"} <= call_parameters(pipe).keys()


def step_count(pipe: DiffusionPipeline, sampling: Sampling) -> int:
    """Give the number of denoising steps that a call will take at most."""
    if sampling.steps is not None:
        return sampling.steps
    default = call_parameters(pipe)["num_inference_steps"].default
    return int(default)


def token_count(pipe: DiffusionPipeline) -> int | None:
    """Give the length that the pipeline pads its prompts to; None where it has no text or doesn't say."""
    limit = call_parameters(pipe).get("max_sequence_length")
    tokens = limit.default if limit is not None else getattr(getattr(pipe, "tokenizer", None), "model_max_length", None)
    # A tokenizer without a limit says so with an absurdly large number.
    return int(tokens) if tokens is not None and tokens < 10_000 else None


def noise_generator(seed: int, sample: int) -> torch.Generator:
    """Make the generator of one sample: it depends on the sample's number, never on its batch."""
    # An odd multiplier keeps (seed, sample) pairs apart without making neighbours share a stream.
    return torch.Generator("cpu").manual_seed((seed * 0x9E3779B97F4A7C15 + sample) % 2**63)


def call_pipeline(
    pipe: DiffusionPipeline,
    conditions: Sequence[str],
    generators: list[torch.Generator],
    sampling: Sampling,
    *,
    output_type: str,
    extra: Mapping[str, Any] | None = None,
) -> Any:
    """Run the pipeline on one batch.

    Args:
        pipe: any pipeline that is steered by prompts, by class labels, or by nothing.
        conditions: one prompt or class label per sample; ignored where nothing steers.
        generators: one per sample.
        sampling: steps and guidance.
        output_type: "pil", or "latent" to skip the decoder where the pipeline can.
        extra: further arguments, such as the picture and mask of an inpainting pipeline.

    Returns:
        The pipeline's images: PIL pictures, or whatever the output type gives.
    """
    parameters = call_parameters(pipe)
    arguments: dict[str, Any] = {"generator": generators, "num_inference_steps": step_count(pipe, sampling)}
    steered_by = condition(pipe)
    if steered_by == "prompt":
        arguments["prompt"] = list(conditions)
        arguments["output_type"] = output_type
    elif steered_by == "class_labels":
        arguments["class_labels"] = [_class_label(pipe, text) for text in conditions]
        arguments["output_type"] = "np" if output_type == "latent" else output_type
    else:
        arguments["batch_size"] = len(generators)
        arguments["output_type"] = "np" if output_type == "latent" else output_type
    if sampling.guidance is not None and "guidance_scale" in parameters:
        arguments["guidance_scale"] = sampling.guidance
    arguments.update(extra or {})
    with torch.no_grad():
        return pipe(**arguments).images


def draw(
    pipe: DiffusionPipeline, conditions: Sequence[str], seed: int, sampling: Sampling, batch: int = 8
) -> list[Image.Image]:
    """Draw one picture per condition; picture i depends on `seed` and i alone, so two pipelines can be compared."""
    pictures: list[Image.Image] = []
    for start in range(0, len(conditions), batch):
        part = conditions[start : start + batch]
        generators = [noise_generator(seed, start + offset) for offset in range(len(part))]
        with quiet_pipeline(pipe):
            pictures += call_pipeline(pipe, part, generators, sampling, output_type="pil")
    return pictures


def _class_label(pipe: DiffusionPipeline, text: str) -> int:
    if text.strip().lstrip("-").isdigit():
        return int(text)
    labels: Mapping[str, int] = getattr(pipe, "labels", None) or {}
    if text not in labels:
        raise UsageError(f"class label {text!r} is no number and none of the pipeline's labels; give class numbers")
    return labels[text]


def latent_of(pipe: DiffusionPipeline, pictures: Tensor) -> Tensor:
    """Encode pictures, float [B, 3, H, W] in [-1, 1], to the latents the denoiser is trained on.

    The mean of the encoder's distribution is taken: noise is added afterwards, and it makes the latents repeatable.
    A pipeline without an autoencoder denoises the pictures themselves.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return pictures
    with torch.no_grad():
        latents: Tensor = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (latents - shift) * float(vae.config.scaling_factor)
