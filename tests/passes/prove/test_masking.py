"""The oracle: removed units multiplied by zero, nothing else."""

from __future__ import annotations

import pytest
import torch

from passes.prove.masking import mask
from passes.sites.find import find_sites
from tests.plans import captured, plan_of, random_plan

FAMILY = "unet_sd15"


@torch.no_grad()
def test_keeping_everything_changes_nothing() -> None:
    program = captured(FAMILY)
    masked = mask(program, plan_of(program))
    assert masked.graph_module.code == program.graph_module.code
    assert torch.equal(masked(*masked.args, **masked.kwargs), program(*program.args, **program.kwargs))


def test_weights_are_shared_and_keys_kept() -> None:
    program = captured(FAMILY)
    code = program.graph_module.code
    masked = mask(program, random_plan(program, seed=1))
    ours, theirs = dict(masked.graph_module.named_parameters()), dict(program.graph_module.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert masked.graph_module.state_dict().keys() == program.graph_module.state_dict().keys()
    assert program.graph_module.code == code


@pytest.mark.parametrize("kind", ["attention", "feed_forward"])
@torch.no_grad()
def test_removed_units_have_no_effect_and_kept_ones_do(kind: str) -> None:
    program = captured(FAMILY)
    site = next(s for s in find_sites(program) if s.kind == kind)
    masked = mask(program, plan_of(program, {site.name: tuple(range(1, site.units))}))
    before = masked(*masked.args, **masked.kwargs)
    weight = program.module(site.tap).weight  # shared by both programs
    original = weight.clone()
    try:
        weight[:, : site.unit_width] += 1
        assert torch.equal(masked(*masked.args, **masked.kwargs), before)
        weight[:, site.unit_width :] += 1
        assert not torch.allclose(masked(*masked.args, **masked.kwargs), before)
    finally:
        weight.copy_(original)
