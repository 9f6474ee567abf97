"""How long one call of the denoiser takes in its pipeline, dense and slim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin

from slimdiff_fx.calibration.rehearse import at_first_call
from slimdiff_fx.pipelines.sampling import Sampling, denoiser_name
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.timing.hardware import cpu_name
from slimdiff_fx.timing.interleave import interleave, paired_ratio

_SECONDS = 1.0  # for each of the two


@dataclass(frozen=True)
class CallLatency:
    """Two denoisers' calls, timed in turn on the same inputs.

    Attributes:
        dense_ms: median of the dense one.
        slim_ms: median of the slim one.
        ratio: slim over dense, the median of the rounds' own.
        runs: of each.
        rows: batch of the call: a prompt, and guidance's row beside it.
        device: it ran on.
        threads: torch's, on the CPU.
    """

    dense_ms: float
    slim_ms: float
    ratio: float
    runs: int
    rows: int
    device: str
    threads: int | None

    def to_json(self) -> dict[str, Any]:
        """Give JSON values."""
        return asdict(self)


def time_call(
    pipe: DiffusionPipeline, slim: ModelMixin, samples: Sequence[Sample], sampling: Sampling, seed: int
) -> CallLatency:
    """Time dense and slim for about a second each, on what the pipeline gives its denoiser for one sample.

    Args:
        pipe: the dense pipeline.
        slim: the slim denoiser, on the same device.
        samples: the first is taken.
        sampling: steps and guidance.
        seed: of the noise.

    Raises:
        UsageError: the pipeline can't be called so.
    """
    dense = getattr(pipe, denoiser_name(pipe))
    plain, device = dense.forward, torch.device(dense.device)
    found: list[CallLatency] = []

    def forward(*args: Any, **kwargs: Any) -> None:
        def call(denoiser: Callable[..., Any]) -> Callable[[], None]:
            return lambda: _waited(lambda: denoiser(*args, **kwargs), device)

        contestants = {"dense": call(plain), "slim": call(slim)}
        with torch.no_grad():
            timings = interleave(contestants, repeats=1, warmup=1, min_seconds=_SECONDS, max_seconds=2 * _SECONDS)
        first = args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
        found.append(
            CallLatency(
                timings["dense"].median * 1e3,
                timings["slim"].median * 1e3,
                paired_ratio(timings["slim"], timings["dense"]),
                len(timings["dense"].seconds),
                len(first),
                cpu_name() if device.type == "cpu" else str(device),
                torch.get_num_threads() if device.type == "cpu" else None,
            )
        )

    at_first_call(pipe, samples[:1], sampling, seed, forward)
    return found[0]


def _waited(call: Callable[[], Any], device: torch.device) -> None:
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
