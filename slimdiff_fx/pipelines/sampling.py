"""How a pipeline is called: which arguments it takes, and which it should be given when the user says nothing."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.option_checks import check_count, check_number
from slimdiff_fx.other_libraries import quiet_pipeline

SAMPLING_FILE = "sampling.json"
DENOISERS = ("unet", "transformer")
# Further arguments of a call that draws these rows.
Given = Callable[[slice], Mapping[str, Any]]
_NUMBER = re.compile(r"-?[0-9]{1,18}")


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
            UsageError: steps below 1, or guidance that is no number, negative or not finite.
        """
        check_count("steps", steps)
        check_number("guidance", guidance)
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
        check_count("num_inference_steps", steps)
        check_number("guidance_scale", guidance)
        return Sampling(steps, None if guidance is None else float(guidance))
    except (ValueError, TypeError, AttributeError, OSError, RecursionError, UsageError) as error:
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


def step_count(pipe: DiffusionPipeline, sampling: Sampling) -> int:
    """Give the number of denoising steps that a call will take at most.

    Raises:
        UsageError: neither the user nor the pipeline says; or they are more than the schedule has timesteps.
    """
    parameter = call_parameters(pipe).get("num_inference_steps")
    if parameter is None:
        raise UsageError(f"{type(pipe).__name__} isn't called with a number of steps; give a pipeline that denoises")
    steps = parameter.default if sampling.steps is None else sampling.steps
    if not isinstance(steps, int):
        raise UsageError(f"{type(pipe).__name__} has no number of steps of its own; give `steps`")
    trained = getattr(pipe.scheduler.config, "num_train_timesteps", None)
    if isinstance(trained, int) and steps > trained:
        raise UsageError(
            f"`steps` is {steps}, and {type(pipe.scheduler).__name__} has {trained} timesteps; give at most {trained}"
        )
    return steps


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
    arguments["output_type"] = "np" if output_type == "latent" and steered_by != "prompt" else output_type
    if steered_by == "prompt":
        arguments["prompt"] = list(conditions)
    elif steered_by == "class_labels":
        arguments["class_labels"] = [class_label(pipe, text) for text in conditions]
    elif "batch_size" in parameters:
        arguments["batch_size"] = len(generators)
    if sampling.guidance is not None and "guidance_scale" in parameters:
        arguments["guidance_scale"] = sampling.guidance
    arguments.update(extra or {})
    with torch.no_grad():
        return pipe(**arguments).images


def nothing_more(rows: slice) -> Mapping[str, Any]:
    """Add no further arguments to a call that draws these rows."""
    return {}


def draw(
    pipe: DiffusionPipeline,
    conditions: Sequence[str],
    seed: int,
    sampling: Sampling,
    batch: int = 8,
    *,
    given: Given = nothing_more,
) -> list[Image.Image]:
    """Draw one picture per condition; picture i depends on `seed` and i alone, so two pipelines can be compared.

    Args:
        pipe: the pipeline.
        conditions: prompts or class labels.
        seed: of the noise.
        sampling: steps and guidance.
        batch: pictures in one call.
        given: says what else a call takes for some of the conditions, such as their pictures.
    """
    pictures: list[Image.Image] = []
    for start in range(0, len(conditions), batch):
        rows = slice(start, min(start + batch, len(conditions)))
        generators = [noise_generator(seed, number) for number in range(rows.start, rows.stop)]
        with quiet_pipeline(pipe):
            pictures += call_pipeline(
                pipe, conditions[rows], generators, sampling, output_type="pil", extra=given(rows)
            )
    return pictures


def class_count(pipe: DiffusionPipeline) -> int | None:
    """Say how many classes the denoiser was made for; None where it doesn't say."""
    config = getattr(pipe, denoiser_name(pipe)).config
    count = getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None)
    return None if count is None else int(count)


def class_label(pipe: DiffusionPipeline, text: str) -> int:
    """Give the number of a class, which may be named by its number or by one of the pipeline's labels.

    Raises:
        UsageError: it is neither, or the denoiser has no class of this number.
    """
    name, count = text.strip(), class_count(pipe)
    labels: Mapping[str, int] = getattr(pipe, "labels", None) or {}
    if name in labels:
        return labels[name]
    known = "class numbers" if count is None else f"class numbers, 0 to {count - 1}"
    if not _NUMBER.fullmatch(name):
        raise UsageError(f"class label {text!r} is no number and none of the pipeline's labels; give {known}")
    if name.startswith("-") or (count is not None and int(name) >= count):
        raise UsageError(f"class label {name} is out of range; give {known}")
    return int(name)
