"""The scale benchmark on a tiny configuration: every stage is there, and the sites are counted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cost_cells import QUICK_CONFIG
from benchmarks.scale import CONFIGS, SIZES, measure_scale

TINY = {**QUICK_CONFIG, "block_out_channels": (16, 32)}


@pytest.mark.slow
def test_whole_way() -> None:
    result = measure_scale(TINY, torch.float32, keep=0.5)
    assert result["sites"]["attention"] == 2 * result["sites"]["feed_forward"] > 0
    assert list(result["stages"]) == ["capture", "analyze", "rewrite", "validate", "lower"]
    assert 0 <= result["tau"] <= 1
    assert result["relative_error"] <= 1e-5  # fp32
    assert result["slim_params"] < result["params"]
    assert result["weights_gb"] <= result["loaded_gb"] <= result["peak_gb"]


@pytest.mark.slow
def test_analysis_only() -> None:
    result = measure_scale(TINY, torch.bfloat16, whole=False)
    assert list(result["stages"]) == ["capture", "analyze"]


def test_sizes_end_at_the_published_ones() -> None:
    assert SIZES["sd15"].config == CONFIGS["sd15"]
    assert SIZES["sdxl"].config == CONFIGS["sdxl"]
    assert CONFIGS["sd15"]["block_out_channels"] == (320, 640, 1280, 1280)
    assert CONFIGS["sdxl"]["transformer_layers_per_block"] == (1, 2, 10)
    assert SIZES["sd-32"].config["block_out_channels"] == (32, 64, 128, 128)
