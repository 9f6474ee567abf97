"""Dense and slim are timed on the same call that the pipeline makes, in turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimdiff_fx.pipelines.sampling import Sampling
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.slimming import call_latency
from slimdiff_fx.slimming.call_latency import time_call


class Denoiser(nn.Module):
    device = torch.device("cpu")

    def __init__(self, name: str, calls: list[Any]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, sample: Tensor, timestep: int, text: Tensor) -> None:
        self.calls.append((self.name, tuple(sample.shape), timestep, tuple(text.shape), torch.is_grad_enabled()))


def test_both_run_on_the_pipeline_s_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    asked: list[Any] = []

    def first_call(pipe: Any, samples: Any, sampling: Any, seed: int, forward: Any) -> None:
        asked.append((len(samples), sampling.steps, seed))
        forward(torch.zeros(2, 4, 8, 8), 7, text=torch.zeros(2, 5, 3))

    def interleaved(contestants: Any, **settings: Any) -> Any:
        assert settings["min_seconds"] == 1
        for run in contestants.values():
            run()
        from slimdiff_fx.timing.interleave import Timing

        return {"dense": Timing((0.02, 0.04, 0.02)), "slim": Timing((0.01, 0.03, 0.01))}

    monkeypatch.setattr(call_latency, "at_first_call", first_call)
    monkeypatch.setattr(call_latency, "interleave", interleaved)
    pipe: Any = SimpleNamespace(unet=Denoiser("dense", calls))
    slim: Any = Denoiser("slim", calls)
    timed = time_call(pipe, slim, [Sample(0, "a"), Sample(1, "b")], Sampling(steps=3), 11)
    assert asked == [(1, 3, 11)], "one sample, as a user draws"
    assert calls == [(name, (2, 4, 8, 8), 7, (2, 5, 3), False) for name in ("dense", "slim")]
    assert (timed.dense_ms, timed.slim_ms, timed.ratio, timed.runs, timed.rows) == (20.0, 10.0, 0.5, 3, 2)
    assert timed.threads == torch.get_num_threads()
    assert set(timed.to_json()) == {"dense_ms", "slim_ms", "ratio", "runs", "rows", "device", "threads"}
