"""Attention as one node: the same numbers, and only where the form is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from passes.capture.capture import capture
from passes.program.inputs import call_flat
from passes.program.program import Program
from slimdiff_fx.export.merged_attention import ATTEND, merge_attention
from slimdiff_fx.export.parity import untraced_inputs
from slimdiff_fx.export.to_onnx.drop_identities import drop_identities
from tests.families import of_families
from tests.plans import captured

SDPA = torch.ops.aten.scaled_dot_product_attention.default


def _count(program: Program, target: object) -> int:
    return sum(node.target is target for node in program.graph.nodes)


@of_families(["unet_sd15", "unet_unconditional", "pixart", "dit"], ["unet_sd15", "unet_unconditional"])
def test_merged_equals_program(family: str) -> None:
    program = captured(family)
    before = program.graph_module.code
    merged = merge_attention(drop_identities(program))
    assert _count(merged, SDPA) == 0
    assert _count(merged, ATTEND) == _count(program, SDPA) > 0
    assert len(merged.graph.nodes) < len(program.graph.nodes)
    assert program.graph_module.code == before
    for case in untraced_inputs(program, batches=(1, 3)):
        with torch.no_grad():
            torch.testing.assert_close(call_flat(merged, case), call_flat(program, case), rtol=1e-12, atol=1e-12)


class Odd(nn.Module):
    """Attention whose heads are laid out in another way than the merged operator's."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.q, self.form = nn.Linear(8, 8), form

    def forward(self, sample: Tensor) -> Tensor:
        query = self.q(sample)
        batch, tokens, _ = query.shape
        split = query.reshape(batch, tokens, 2, 4).transpose(1, 2)
        if self.form == "width first":
            split = query.reshape(batch, tokens, 4, 2).permute(0, 3, 1, 2)
        result = nn.functional.scaled_dot_product_attention(split, split, split, is_causal=self.form == "causal")
        if self.form == "heads read":
            return result.transpose(1, 2).flatten(2) + result.mean()
        if self.form == "heads kept":
            return result.flatten(2).reshape(batch, tokens, 8)
        return result.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", ["width first", "causal", "heads read", "heads kept"])
def test_other_forms_stay(form: str) -> None:
    program = capture(Odd(form), (torch.randn(2, 6, 8),), dynamic_shapes=None, timestep=None)
    merged = merge_attention(drop_identities(program))
    assert (_count(merged, SDPA), _count(merged, ATTEND)) == (1, 0)


def test_the_plain_form_is_merged() -> None:
    program = capture(Odd("plain"), (torch.randn(2, 6, 8),), dynamic_shapes=None, timestep=None)
    assert _count(merge_attention(program), ATTEND) == 1


def test_identities_go_and_casts_stay() -> None:
    class Casting(nn.Module):
        def forward(self, sample: Tensor) -> Tensor:
            wide = sample.to(torch.float64) / 1.0
            return nn.functional.dropout(wide.to(torch.float64), 0.1, False).to(torch.float32) / 2.0

    program = capture(Casting(), (torch.randn(2, 3),), timestep=None)
    cleaned = drop_identities(program)
    kinds = [str(node.target) for node in cleaned.graph.nodes if node.op == "call_function"]
    assert kinds == ["aten.to.dtype", "aten.to.dtype", "aten.div.Tensor"]
    sample = torch.randn(2, 3)
    assert torch.equal(cleaned(sample), program(sample))
