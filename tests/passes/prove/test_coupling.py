"""DepGraph's answer must be the site's own linears, dimensions and indices, or nothing is cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from passes.errors import CouplingError
from passes.prove.coupling import check_coupling, expected_reach
from passes.sites.site import Site
from tests.passes.hand_graphs import (
    HEADS,
    NEURONS,
    WIDTH,
    FusedAttention,
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
SWIGLU = feed_forward_site("up", "gate")


def _kept(units: int, *gone: int) -> torch.Tensor:
    kept = torch.ones(units, dtype=torch.bool)
    kept[list(gone)] = False
    return kept


def _check(module: nn.Module, site: Site, *gone: int) -> None:
    program = hand_program(module)
    check_coupling(program, site, _kept(site.units, *gone), hand_nodes(program, site))


@pytest.mark.parametrize(
    ("module", "site"),
    [
        (PlainAttention(), QKV),
        (PlainAttention(head_norm=True), QKV),
        (FusedAttention(), attention_site(("qkv", (0, WIDTH, 2 * WIDTH)))),
        (Gated(), GEGLU),
        (Gated(dim=2), GEGLU),  # DepGraph alone loses the mapping of dim=2
        (TwoLinearGate(), SWIGLU),
    ],
    ids=["attention", "head norm", "fused", "gated", "gated dim 2", "two-linear gate"],
)
def test_right_sites_pass(module: nn.Module, site: Site) -> None:
    _check(module, site, 0, site.units - 2)
    _check(module, site, *range(1, site.units))


@pytest.mark.parametrize(
    ("module", "site", "message"),
    [
        (PlainAttention(), attention_site("q", "k"), "'v'"),
        (PlainAttention(leak=True), QKV, "outside the site"),
        (FusedAttention(), attention_site(("qkv", (0, WIDTH))), "'qkv'"),
        (Gated(), feed_forward_site(("up", (0,))), "'up'"),
        (Gated(), feed_forward_site(("up", (0, NEURONS - 1))), "'up'"),
        (Gated(norm=True), GEGLU, "'norm'"),
        (Gated(bare=True), GEGLU, "'gain'"),
        (Gated(twice=True), GEGLU, "more than once"),
        (TwoLinearGate(), feed_forward_site("up"), "'gate'"),
        (Gated(), feed_forward_site("down", ("up", (0, NEURONS))), "feed_forward"),
    ],
    ids=["no v", "leak", "fused short", "half", "shifted", "norm", "weight", "twice", "no gate", "swapped"],
)
def test_anything_else_is_refused(module: nn.Module, site: Site, message: str) -> None:
    with pytest.raises(CouplingError, match=message):
        _check(module, site, 0, site.units - 2)


def test_expected_reach_is_rows_and_columns() -> None:
    reach = expected_reach(attention_site(("qkv", (0, WIDTH))), _kept(HEADS, 1))
    assert reach == {("qkv", "out"): {4, 5, 6, 7, 20, 21, 22, 23}, ("out", "in"): {4, 5, 6, 7}}


def test_the_program_is_left_alone() -> None:
    program = hand_program(Gated().train())
    program.graph_module.train()
    before = {name: (p.data_ptr(), p.clone()) for name, p in program.graph_module.named_parameters()}
    check_coupling(program, GEGLU, _kept(NEURONS, 3), hand_nodes(program, GEGLU))
    for name, parameter in program.graph_module.named_parameters():
        assert parameter.data_ptr() == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert not parameter.requires_grad
    assert all(module.training and not module._forward_hooks for module in program.graph_module.modules())


def test_works_where_gradients_are_off() -> None:
    program = hand_program(Gated())
    nodes = hand_nodes(program, GEGLU)
    with torch.no_grad():
        check_coupling(program, GEGLU, _kept(NEURONS, 2), nodes)
    with torch.inference_mode():
        check_coupling(program, GEGLU, _kept(NEURONS, 2), nodes)
