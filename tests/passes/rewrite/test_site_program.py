"""A site as a program of its own: its sizes, its inputs, and by what two of them are alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from passes.program.program import Program
from passes.prove.region import cut_region
from passes.rewrite.site_program import signature, site_program
from passes.sites.site import Site
from passes.sites.site_nodes import Constant, SiteNodes
from tests.passes.hand_graphs import (
    HEAD_DIM,
    HEADS,
    NEURONS,
    WIDTH,
    Gated,
    PlainAttention,
    attention_site,
    feed_forward_site,
    hand_nodes,
    hand_program,
)

ATEN = torch.ops.aten
GEGLU = feed_forward_site(("up", (0, NEURONS)))
QKV = attention_site("q", "k", "v")


def _attention() -> tuple[Program, SiteNodes]:
    program = hand_program(PlainAttention())
    nodes = hand_nodes(program, QKV)
    constants = []
    for node in program.graph.nodes:
        if node.target is ATEN.view.default:
            constants.append(Constant(node, (1, 2)))
            constants.append(Constant(node, (1, 3), counts_units=False, counts_width=True))
        if node.target is ATEN.reshape.default:
            constants.append(Constant(node, (1, 2), counts_width=True))
    return program, SiteNodes(nodes.activation, None, None, None, nodes.reader, nodes.writers, tuple(constants))


@torch.no_grad()
@pytest.mark.parametrize("units", [1, 5, NEURONS])
def test_a_feed_forward_has_the_first_of_its_neurons(units: int) -> None:
    module = Gated()
    program = hand_program(module)
    cut = site_program(program, GEGLU, hand_nodes(program, GEGLU), units)
    (x,) = cut.args
    assert x.shape == program.args[0].shape
    rows = [*range(units), *range(NEURONS, NEURONS + units)]
    value, gate = nn.functional.linear(x, module.up.weight[rows], module.up.bias[rows]).chunk(2, -1)
    expected = nn.functional.linear(value * nn.functional.gelu(gate), module.down.weight[:, :units], module.down.bias)
    torch.testing.assert_close(cut(x), expected, rtol=1e-6, atol=1e-6)
    assert cut.timestep is None
    assert not any(value.requires_grad for value in cut.graph_module.parameters())
    assert not any(each.training for each in cut.graph_module.modules())
    # The program that it was cut from is whole.
    assert program.module("up").out_features == 2 * NEURONS
    assert tuple(module.up.weight.shape) == (2 * NEURONS, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize(("units", "width"), [(HEADS, None), (2, None), (HEADS, 3), (HEADS, HEAD_DIM)])
def test_an_attention_has_the_first_of_its_heads_and_channels(units: int, width: int | None) -> None:
    program, nodes = _attention()
    cut = site_program(program, QKV, nodes, units, width)
    channels = width or HEAD_DIM
    inputs = cut.args
    columns = [head * HEAD_DIM + at for head in range(units) for at in range(channels)]

    def heads(name: str, x: Tensor) -> Tensor:
        linear = program.module(name)
        made = nn.functional.linear(x, linear.weight[columns], linear.bias[columns])
        return made.view(*made.shape[:2], units, channels).transpose(1, 2)

    # Each linear has an input of its own.
    q, k, v = (heads(name, x) for name, x in zip("qkv", inputs * (3 if len(inputs) == 1 else 1), strict=True))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    out = program.module("out")
    expected = nn.functional.linear(mixed, out.weight[:, columns], out.bias)
    torch.testing.assert_close(cut(*inputs), expected, rtol=1e-5, atol=1e-6)
    shapes = {tuple(node.meta["val"].shape) for node in cut.graph.nodes if node.target is ATEN.transpose.int}
    assert (inputs[0].shape[0], units, inputs[0].shape[1], channels) in shapes


def test_inputs_are_drawn_by_the_seed() -> None:
    program = hand_program(Gated())
    nodes = hand_nodes(program, GEGLU)
    one, same, other = (site_program(program, GEGLU, nodes, 3, seed=seed).args[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == program.args[0].dtype
    assert float(one.std()) == pytest.approx(1, abs=0.3)


def test_signatures_are_equal_for_equal_sites_and_differ_by_size_and_operator() -> None:
    program = hand_program(Gated())
    nodes = hand_nodes(program, GEGLU)
    again = hand_program(Gated())
    longer = hand_program(Gated(), tokens=7)
    split = hand_program(Gated(dim=2))
    described = signature(site_program(program, GEGLU, nodes, 5))
    assert described == signature(site_program(again, GEGLU, hand_nodes(again, GEGLU), 5, seed=3))
    others = [
        signature(site_program(program, GEGLU, nodes, 6)),
        signature(site_program(longer, GEGLU, hand_nodes(longer, GEGLU), 5)),
    ]
    assert len({described, *others}) == 3
    # Both split the last axis: the region counts it from the end.
    assert described == signature(site_program(split, GEGLU, hand_nodes(split, GEGLU), 5))
    assert "gelu" in described
    assert "in_features=16, out_features=10" in described
    # Names of blocks aren't in it, for they differ where nothing else does.
    assert "up" not in described.replace("groups", "")


def test_a_region_keeps_the_captured_sizes_when_no_limit_is_given() -> None:
    program = hand_program(Gated(), tokens=50)
    site: Site = GEGLU
    nodes = hand_nodes(program, site)
    assert cut_region(program, site, nodes, limit=None).inputs[0].shape == (2, 50, WIDTH)
    assert site_program(program, site, nodes, 2).args[0].shape == (2, 50, WIDTH)


def test_bare_weights_are_in_the_signature_by_their_size() -> None:
    program = hand_program(Gated(bare=True))
    described = signature(site_program(program, GEGLU, hand_nodes(program, GEGLU), NEURONS))
    assert f"get_attr torch.float32 ({NEURONS},)" in described
    assert f"placeholder torch.float32 (2, 6, {WIDTH})" in described
