"""A pipeline's denoiser as a program, and the program's place inside the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline, ModelMixin

from passes.capture.capture import capture
from passes.errors import UsageError
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site
from slimdiff_fx.denoisers.families import DenoiserInputs, describe
from slimdiff_fx.denoisers.residuals import pipeline_residuals
from slimdiff_fx.pipelines.sampling import denoiser_name, token_count


@dataclass(frozen=True)
class CapturedDenoiser:
    """A denoiser with everything the stages need.

    Attributes:
        model: the eager denoiser; the program shares its weights.
        inputs: how a call of the model becomes a call of the program.
        program: the raised graph.
        sites: where units can be removed.
    """

    model: ModelMixin
    inputs: DenoiserInputs
    program: Program
    sites: tuple[Site, ...]


def capture_pipeline(pipe: DiffusionPipeline, *, residuals: Sequence[str] = ()) -> CapturedDenoiser:
    """Capture a pipeline's denoiser and find its sites.

    Args:
        pipe: the pipeline. What its own ControlNet or T2I-Adapter adds inside the denoiser are inputs of the program.
        residuals: further ones, as `slimdiff_fx.denoisers.families.describe` takes them.

    Raises:
        UsageError: the denoiser is compiled, or of a class that can't be captured.
        CaptureError: it could not be captured.
    """
    model = getattr(pipe, denoiser_name(pipe))
    kinds = dict.fromkeys((*pipeline_residuals(pipe), *residuals))
    return capture_model(model, tokens=token_count(pipe), residuals=tuple(kinds))


def capture_model(model: ModelMixin, *, tokens: int | None = None, residuals: Sequence[str] = ()) -> CapturedDenoiser:
    """Capture a denoiser and find its sites; see `capture_pipeline`.

    Args:
        model: the denoiser.
        tokens: example length of the text.
        residuals: as `slimdiff_fx.denoisers.families.describe` takes them.
    """
    if hasattr(model, "_orig_mod"):
        raise UsageError("the denoiser is compiled already; slim first, then torch.compile the slim one")
    inputs = describe(model, tokens=tokens, residuals=residuals)
    program = capture(
        inputs.module,
        inputs.args,
        inputs.kwargs,
        inputs.dynamic_shapes,
        root=inputs.root,
        timestep=inputs.timestep,
    )
    return CapturedDenoiser(model, inputs, program, find_sites(program))
