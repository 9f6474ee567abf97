"""A bench whose contestants take as long as their multiply-adds say: predictions must then be exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from passes.plan.costs import program_macs
from slimdiff_fx.timing.bench import Bench
from slimdiff_fx.timing.interleave import Timing
from slimdiff_fx.timing.runtimes import Contestant

OVERHEAD = 3e-5  # seconds of a call, however little it does


@dataclass(frozen=True)
class Pretended:
    seconds: float

    def __call__(self) -> None:
        """Run nothing."""


def pretend(monkeypatch: pytest.MonkeyPatch, gain: float = 1.0) -> list[Contestant]:
    """Put the clock in place of the real one; gives the list of what is made ready from now on.

    Args:
        monkeypatch: of the test.
        gain: what a multiply-add costs in the whole denoiser, over what it costs in a site alone.
    """
    made: list[Contestant] = []

    def ready(bench: Bench, contestant: Contestant) -> Callable[[], None]:
        made.append(contestant)
        whole = contestant.program.timestep is not None
        return Pretended(OVERHEAD + program_macs(contestant.program) * 1e-9 * (gain if whole else 1.0))

    def timed(bench: Bench, forwards: Mapping[str, Pretended], seconds: float) -> dict[str, Timing]:
        return {name: Timing((forward.seconds,) * 3) for name, forward in forwards.items()}

    monkeypatch.setattr(Bench, "ready", ready)
    monkeypatch.setattr(Bench, "_time", timed)
    return made
