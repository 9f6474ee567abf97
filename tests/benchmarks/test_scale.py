"""The scale benchmark on a tiny configuration: every stage is there, and the sites are counted."""

from __future__ import annotations

import torch

from benchmarks.scale import CONFIGS, measure_scale

TINY = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def test_whole_way() -> None:
    result = measure_scale(TINY, torch.float32, whole=True, keep=0.5)
    assert result["sites"]["attention"] == 2 * result["sites"]["feed_forward"] > 0
    assert list(result["stages"]) == ["capture", "inspect", "rewrite", "validate", "lower"]
    assert result["relative_error"] <= 1e-5  # fp32
    assert result["slim_params"] < result["params"]
    assert result["weights_gb"] <= result["loaded_gb"] <= result["peak_gb"]


def test_planning_only() -> None:
    result = measure_scale(TINY, torch.bfloat16, whole=False, keep=0.9)
    assert list(result["stages"]) == ["capture", "inspect", "plan"]
    assert 0 <= result["planned_tau"] <= 1


def test_published_widths() -> None:
    assert CONFIGS["sd15"]["block_out_channels"] == (320, 640, 1280, 1280)
    assert CONFIGS["sdxl"]["transformer_layers_per_block"] == (1, 2, 10)
