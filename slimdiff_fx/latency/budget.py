"""The policy that asks for a share of the latency, and of which latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from passes.errors import UsageError
from passes.names import Normalization
from passes.plan.alignment import check_align
from passes.plan.policies import check_fraction, check_normalization
from slimdiff_fx.option_checks import check_count
from slimdiff_fx.timing.runtimes import runtime

MOST_THREADS = 1024


@dataclass(frozen=True)
class KeepLatency:
    """Keep at most this fraction of the denoiser's latency on a runtime, as measured here.

    Examples:
        >>> policy = slimdiff_fx.KeepLatency(0.75, backend="eager", threads=1)
        >>> policy.backend, policy.fraction
        ('eager', 0.75)

        `slimdiff_fx.slim(pipe, policy=policy)` times the denoiser's sites, and then slims it.

    Attributes:
        fraction: above 0, at most 1.
        backend: one of `slimdiff_fx.timing.runtimes.BACKENDS`.
        batch: of the timed forward; None for what the pipeline runs: 2 with guidance, else 1.
        height: of the latents; None for the model's own.
        width: likewise.
        tokens: length of the text; None for what the pipeline pads to.
        threads: CPU threads; None for as many as torch uses.
        cache: folder for measured latencies; see `slimdiff_fx.latency.cache`.
        normalize: as in `passes.plan.policies.KeepParams`.
        align: likewise.
        uniform: likewise.
    """

    fraction: float
    backend: str = "ort"
    batch: int | None = None
    height: int | None = None
    width: int | None = None
    tokens: int | None = None
    threads: int | None = None
    cache: str | Path | None = None
    normalize: Normalization = "max"
    align: int | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        check_fraction("KeepLatency", self.fraction)
        check_normalization(self.normalize)
        check_align(self.align)
        runtime(self.backend)
        for name, value in {**self.sizes, "threads": self.threads}.items():
            check_count(f"KeepLatency.{name}", value)
        if self.threads is not None and self.threads > MOST_THREADS:
            raise UsageError(f"`KeepLatency.threads` is {self.threads}; give at most {MOST_THREADS}")

    @property
    def sizes(self) -> dict[str, int | None]:
        """The asked-for sizes by name."""
        return {"batch": self.batch, "height": self.height, "width": self.width, "tokens": self.tokens}

    @property
    def used_threads(self) -> int:
        """How many CPU threads are timed."""
        return self.threads if self.threads is not None else torch.get_num_threads()
