"""A site cut out of its program: what belongs to it, what enters, what is refused."""

from __future__ import annotations

import pytest
import torch

from passes.errors import CouplingError
from passes.prove.region import cut_region, region_nodes
from tests.passes.hand_graphs import (
    NEURONS,
    WIDTH,
    Gated,
    PlainAttention,
    TwoLinearGate,
    attention_site,
    feed_forward_site,
    hand_nodes,
    hand_program,
)

QKV = attention_site("q", "k", "v")
GEGLU = feed_forward_site(("up", (0, NEURONS)))


def test_region_computes_what_the_program_does() -> None:
    torch.manual_seed(0)
    for module, site in ((PlainAttention(), QKV), (Gated(), GEGLU), (Gated(dim=2), GEGLU)):
        program = hand_program(module)
        region = cut_region(program, site, hand_nodes(program, site), limit=None)
        assert {tuple(value.shape) for value in region.inputs} == {tuple(program.args[0].shape)}
        inputs = [program.args[0]] * len(region.inputs)
        assert torch.equal(region.module(*inputs), program(*program.args))


def test_region_is_small_and_shares_memory() -> None:
    program = hand_program(Gated(), tokens=500)
    region = cut_region(program, GEGLU, hand_nodes(program, GEGLU))
    assert region.inputs[0].shape == (2, 16, WIDTH)
    up = region.module.get_parameter("up.weight")
    assert up.data_ptr() == program.module("up").weight.data_ptr()
    assert up.requires_grad
    assert not program.module("up").weight.requires_grad


def test_a_forgotten_linear_is_in_the_region() -> None:
    program = hand_program(TwoLinearGate())
    site = feed_forward_site("up")
    assert "gate" in {node.target for node in region_nodes(site, hand_nodes(program, site))}


@pytest.mark.parametrize(
    ("module", "site", "message"),
    [(PlainAttention(leak=True), QKV, "also feed"), (Gated(twice=True), GEGLU, "more than once")],
)
def test_open_regions_are_refused(module: torch.nn.Module, site: object, message: str) -> None:
    program = hand_program(module)
    with pytest.raises(CouplingError, match=message):
        region_nodes(site, hand_nodes(program, site))  # type: ignore[arg-type]
