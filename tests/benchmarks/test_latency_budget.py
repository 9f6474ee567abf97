"""The benchmark of latency budgets, on a clock that counts multiply-adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import latency_budget
from benchmarks.latency_budget import measure
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.timing.bench import Effort
from tests.synthetic_bench import pretend
from tests.toy_denoisers import unet_sd15


@pytest.mark.slow
def test_plans_of_a_pipeline_stand_side_by_side(
    toy_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    policy = KeepLatency(1.0, "eager", threads=1, cache=tmp_path)
    result = measure(str(toy_pipeline), policy, [0.95, 0.9], 4, Effort())
    assert [(row["target"], row["made_by"]) for row in result["plans"]] == [
        (target, made_by) for target in (0.95, 0.9) for made_by in ("latency", "params")
    ]
    for by_latency, by_params in zip(result["plans"][::2], result["plans"][1::2], strict=True):
        assert by_latency["expected"] <= by_latency["target"]
        assert by_params["error"] <= by_latency["error"]
        assert abs(by_latency["off"]) < 1e-3
    assert 0 < result["costs"]["sites_share"] < 1


@pytest.mark.slow
def test_a_configuration_is_planned_by_shape_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setitem(latency_budget.CONFIGS, "toy", {})
    monkeypatch.setitem(latency_budget.DTYPES, "toy", torch.float32)
    monkeypatch.setattr(latency_budget, "build", lambda config, dtype, seed: unet_sd15(seed, dtype))
    policy = KeepLatency(1.0, "eager", threads=1, cache=tmp_path, align=4)
    (row,) = measure("toy", policy, [0.9], 4, Effort())["plans"]
    assert row["error"] is None
    assert 0.8 < row["expected"] <= 0.9
    assert row["measured"] == pytest.approx(row["expected"], abs=1e-3)
