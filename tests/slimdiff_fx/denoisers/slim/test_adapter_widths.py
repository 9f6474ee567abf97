"""Which model an adapter is of, by the width of each of its keys: shapes by hand, no model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from passes.errors import PlanError, UsageError
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.denoisers.slim.adapter_widths import refuse_mixed, widths_at_cuts
from slimdiff_fx.denoisers.slim.lora import linear_cuts
from slimdiff_fx.denoisers.slim.sites_of_classes import linears_of_site

# Four heads of 8 channels of which two stay, and 20 gated neurons of which 5 stay; inputs of 32 channels, rank 3.
PLAN = SlimPlan(
    "0" * 64,
    {
        "block.attn1": SitePlan("attention", 4, (0, 2)),
        "block.ff.net": SitePlan("feed_forward", 20, (1, 3, 5, 7, 9)),
    },
)
CONSUMES = {path: at for name, entry in PLAN.sites.items() for path, at in linears_of_site(name, entry.kind).items()}
SLIM = {
    **{f"block.attn1.{linear}": 16 for linear in ("to_q", "to_k", "to_v", "to_out.0")},
    **{"block.ff.net.0.proj": 10, "block.ff.net.2": 5},
}


def _read(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, str, int, int]]:
    state: dict[str, Tensor] = {key: torch.zeros(shape) for key, shape in shapes.items()}
    return [(each.path, each.side, each.adapter, each.slim) for each in widths_at_cuts(state, CONSUMES, SLIM)]


@pytest.mark.parametrize(
    "keys",
    [
        ("block.attn1.to_q.lora_A.weight", "block.attn1.to_q.lora_B.weight"),
        ("block.attn1.to_q.lora.down.weight", "block.attn1.to_q.lora.up.weight"),
        ("block.attn1.processor.to_q_lora.down.weight", "block.attn1.processor.to_q_lora.up.weight"),
        ("unet.block.attn1.to_q.lora_A.weight", "unet.block.attn1.to_q.lora_B.weight"),
        ("base_model.model.block.attn1.to_q.lora_A.weight", "base_model.model.block.attn1.to_q.lora_B.weight"),
    ],
)
def test_every_way_to_name_a_key(keys) -> None:
    assert _read(dict(zip(keys, ((3, 32), (32, 3)), strict=True))) == [("block.attn1.to_q", "output rows", 32, 16)]


def test_only_what_was_cut_says_anything() -> None:
    assert _read(
        {
            "block.attn1.to_out.0.lora_A.weight": (3, 32),
            "block.attn1.processor.to_out_lora.down.weight": (3, 16),
            "block.attn1.to_out.0.lora_B.weight": (32, 3),
            "block.attn1.to_v.lora_B.bias": (16,),
            "block.attn1.to_k.lora_magnitude_vector": (32,),
            "block.ff.net.0.proj.lora_B.weight": (40, 3),
            "block.ff.net.2.lora_A.weight": (3, 5),
            "block.ff.net.2.alpha": (),
            "block.conv.lora_B.weight": (8, 3, 1, 1),
            "text_encoder.block.attn1.to_q.lora_B.weight": (7, 3),
        }
    ) == [
        ("block.attn1.to_out.0", "input columns", 32, 16),
        ("block.attn1.to_out.0", "input columns", 16, 16),
        ("block.attn1.to_v", "output rows", 16, 16),
        ("block.attn1.to_k", "output rows", 32, 16),
        ("block.ff.net.0.proj", "output rows", 40, 10),
        ("block.ff.net.2", "input columns", 5, 5),
    ]


def test_products_have_the_width_of_both_factors() -> None:
    found = _read(
        {
            "block.attn1.to_q.lokr_w1": (4, 8),
            "block.attn1.to_q.lokr_w2_a": (8, 3),
            "block.attn1.to_q.lokr_w2_b": (3, 4),
            "block.attn1.to_out.0.lokr_w1_a": (2, 3),
            "block.attn1.to_out.0.lokr_w1_b": (3, 2),
            "block.attn1.to_out.0.lokr_w2": (16, 8),
            "block.attn1.to_v.hada_w1_a": (32, 3),
        }
    )
    assert set(found) == {
        ("block.attn1.to_q", "output rows", 32, 16),
        ("block.attn1.to_out.0", "input columns", 16, 16),
        ("block.attn1.to_v", "output rows", 32, 16),
    }


def _judge(q: int, v: int, columns: int) -> None:
    shapes = {"to_q.lora_B.weight": (q, 3), "to_v.lora.up.weight": (v, 3), "to_out.0.lora_A.weight": (3, columns)}
    state = {f"block.attn1.{key}": torch.zeros(shape) for key, shape in shapes.items()}
    refuse_mixed(widths_at_cuts(state, CONSUMES, SLIM), linear_cuts(PLAN))


def test_one_of_either_passes_and_what_is_mixed_or_of_another_model_does_not() -> None:
    _judge(32, 32, 32)
    _judge(16, 16, 16)
    for mixed in ((32, 32, 16), (32, 16, 32), (16, 32, 32), (16, 16, 32)):
        with pytest.raises(UsageError, match=r"of the dense model, and 'block\.attn1\.to_.* of the slim one"):
            _judge(*mixed)
    # 64 rows are four heads of another width: they could be sliced, and would be of another model all the same.
    for other in ((31, 32, 32), (64, 32, 32), (64, 64, 64), (16, 16, 15)):
        with pytest.raises(PlanError, match="of another model"):
            _judge(*other)
