"""Adapters sliced by hand: which rows, columns and biases go, of matrices that are all different."""

from __future__ import annotations

import pytest
import torch

from passes.errors import PlanError
from passes.plan.slim_plan import SitePlan, SlimPlan
from slimdiff_fx.denoisers.slim.lora import slice_lora
from tests.sites import linear_site

# Where the plan's sites are; plans of before don't say.
FOUND = {
    "block.attn": linear_site(
        "block.attn", "attention", 3, 4, tuple(f"block.attn.to_{name}" for name in "qkv"), "block.attn.to_out.0"
    ),
    "block.ff.net": linear_site(
        "block.ff.net", "feed_forward", 5, 1, (("block.ff.net.0.proj", (0, 5)),), "block.ff.net.2"
    ),
}
EITHER = pytest.mark.parametrize("found", [FOUND, {}], ids=["by the plan", "by the class"])


def _plan_by_hand(width=None, updates=None, maps=None, found=FOUND):
    """Keep heads 0 and 2 of three, 4 wide, and neurons 1 and 4 of five."""
    sites = {
        "block.attn": SitePlan("attention", 3, (0, 2) if width is None else (0, 1, 2), width),
        "block.ff.net": SitePlan("feed_forward", 5, (1, 4)),
    }
    return SlimPlan({}, sites, updates=updates or {}, adapter_maps=maps or {}, found=found)


@EITHER
def test_biases_of_b_are_sliced_as_its_rows_are(found):
    own = {
        "unet.block.attn.to_q.lora_B.bias": torch.arange(12.0),
        "unet.block.attn.to_out.0.lora_B.bias": torch.arange(7.0),
        "unet.block.ff.net.0.proj.lora_B.bias": torch.arange(10.0) * 10,
        "unet.block.ff.net.2.lora_B.bias": torch.arange(7.0),
        # asymmetric matrices, so that a slice of the wrong side shows
        "unet.block.attn.to_q.lora_B.weight": torch.arange(24.0).reshape(12, 2),
        "unet.block.attn.to_q.lora_A.weight": torch.arange(14.0).reshape(2, 7),
        "unet.block.attn.to_out.0.lora_A.weight": torch.arange(24.0).reshape(2, 12),
        "unet.block.ff.net.2.lora_A.weight": torch.arange(10.0).reshape(2, 5),
        "unet.block.ff.net.0.proj.lora_A.weight": torch.arange(14.0).reshape(2, 7),
    }
    rows = [0, 1, 2, 3, 8, 9, 10, 11]
    cut = slice_lora(own, _plan_by_hand(found=found))
    expected = {
        "unet.block.attn.to_q.lora_B.bias": torch.tensor(rows).float(),
        "unet.block.attn.to_out.0.lora_B.bias": torch.arange(7.0),
        "unet.block.ff.net.0.proj.lora_B.bias": torch.tensor([10.0, 40, 60, 90]),  # value and gate
        "unet.block.ff.net.2.lora_B.bias": torch.arange(7.0),
        "unet.block.attn.to_q.lora_B.weight": own["unet.block.attn.to_q.lora_B.weight"][rows],
        "unet.block.attn.to_out.0.lora_A.weight": own["unet.block.attn.to_out.0.lora_A.weight"][:, rows],
        "unet.block.ff.net.2.lora_A.weight": torch.tensor([[1.0, 4], [6, 9]]),
    }
    assert cut.keys() == own.keys()
    for key, value in own.items():
        assert torch.equal(cut[key], expected.get(key, value)), key


def test_biases_of_b_go_through_the_map_as_its_rows_do():
    # Heads become 2 wide: the first channel of each is 1, 2, 3 times channel 0, the second channel 3 less channel 1.
    shrink = torch.zeros(3, 2, 4)
    for head in range(3):
        shrink[head, 0, 0] = head + 1
        shrink[head, 1, 3], shrink[head, 1, 1] = 1, -1
    names = ("to_q", "to_k", "to_v", "to_out.0")
    updates = {f"block.attn.{name}.weight": torch.zeros(1) for name in names}
    maps = {f"block.attn.{name}": shrink for name in names[:3]}
    maps["block.attn.to_out.0"] = torch.zeros(12, 6)
    key = "transformer.block.attn.to_v.lora_B"
    own = {f"{key}.bias": torch.arange(12.0), f"{key}.weight": torch.arange(24.0).reshape(12, 2)}
    found = slice_lora(own, _plan_by_hand(2, updates, maps))
    assert found[f"{key}.bias"].tolist() == [0, 2, 8, 2, 24, 2]
    assert found[f"{key}.weight"].tolist() == [[0, 1], [4, 4], [16, 18], [4, 4], [48, 51], [4, 4]]


@EITHER
@pytest.mark.parametrize("rows", [8, 13, 25])
def test_a_bias_of_another_model_is_refused(rows, found):
    with pytest.raises(PlanError, match="of another model"):
        slice_lora({"block.attn.to_q.lora_B.bias": torch.zeros(rows)}, _plan_by_hand(found=found))
