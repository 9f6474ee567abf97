"""The analysis benchmark on a tiny configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.analysis import measure_analysis
from tests.benchmarks.test_scale import TINY


@pytest.mark.slow
def test_moments_on_disk_and_a_plan(tmp_path: Path) -> None:
    result = measure_analysis(TINY, torch.float32, side=8, moments_folder=tmp_path / "moments")
    assert result["attentions"] == 2 * result["feed_forwards"] > 0
    assert list(result["stages"]) == ["capture", "observe", "plan"]
    # at most two shares of each site, a width of each attention that looks free, and the whole plan
    sites = result["attentions"] + result["feed_forwards"]
    assert sites < result["sensitivity_forwards"] <= 2 * sites + result["attentions"] + 1
    assert result["closed_form_seconds"] >= 0
    assert not list((tmp_path / "moments").iterdir())
