"""A pipeline's denoiser as a program, and the program's place inside the pipeline."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline, ModelMixin

from passes.errors import UsageError
from passes.program.program import Program
from passes.program.torch_private import is_compiled
from passes.sites.find import find_sites
from passes.sites.site import Site
from slimdiff_fx.denoisers.families import DenoiserInputs, capture_inputs, describe
from slimdiff_fx.denoisers.residuals import pipeline_residuals
from slimdiff_fx.other_libraries import first_line
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
    if is_compiled(model):
        raise UsageError("the denoiser is compiled already; slim first, then torch.compile the slim one")
    inputs = describe(model, tokens=tokens, residuals=residuals)
    program = capture_inputs(inputs)
    return CapturedDenoiser(model, inputs, program, find_sites(program))


def pipeline_with(pipe: DiffusionPipeline, model: ModelMixin, *, share: bool) -> DiffusionPipeline:
    """Make a pipeline with another denoiser; its other parts are copies, or with `share` the same."""
    name = denoiser_name(pipe)
    parts = {} if share else {part: value for part, value in pipe.components.items() if part != name}
    try:
        # in one go, so that what two parts hold together they still hold together
        parts = copy.deepcopy(parts)
    except Exception as error:  # whatever a component of another library raises
        raise UsageError(
            f"a component of the {type(pipe).__name__} can't be copied ({type(error).__name__}: {first_line(error)}); "
            "pass in_place=True, which shares them"
        ) from error
    # A shallow copy shares every component; registering replaces them in the copy alone.
    made = copy.copy(pipe)
    made.register_modules(**{**parts, name: model})
    return made
