"""How far the slim denoiser's prediction is from the dense one's, while the dense pipeline draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.pipelines.trajectory import DenoiserOutput, in_place_of


@dataclass
class PredictionError:
    """Sums over all calls of the dense denoiser.

    Attributes:
        lost: Σ‖slim − dense‖².
        energy: Σ‖dense‖².
    """

    lost: float = 0.0
    energy: float = 0.0

    @property
    def relative_mse(self) -> float | None:
        """The relative squared error; None before any call."""
        return self.lost / self.energy if self.energy > 0 else None


@contextmanager
def measured_error(pipe: DiffusionPipeline, slim: nn.Module) -> Iterator[PredictionError]:
    """Let the slim denoiser predict beside the pipeline's own, on the same inputs, for the duration of a block.

    Args:
        pipe: the dense pipeline; draws what it would draw without this.
        slim: takes the dense denoiser's arguments.
    """
    denoiser = getattr(pipe, denoiser_name(pipe))
    plain = denoiser.forward
    error = PredictionError()

    def forward(*args: Any, **kwargs: Any) -> Any:
        bare = {**kwargs, "return_dict": False}
        with torch.no_grad():
            dense: Tensor = plain(*args, **bare)[0]
            found: Tensor = slim(*args, **bare)[0]
        error.lost += float((found.double() - dense.double()).square().sum())
        error.energy += float(dense.double().square().sum())
        return (dense,) if kwargs.get("return_dict") is False else DenoiserOutput(dense)

    with in_place_of(denoiser, forward):
        yield error
