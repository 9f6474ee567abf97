"""Which attentions can be made narrower, and which modules act on every head alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from passes.kinds.attention import ATTENTION
from passes.kinds.feed_forward import FEED_FORWARD
from passes.sites.site import Site, Slice
from tests.sites import Writer, linear_site

# Three heads of four channels.
HEADS = linear_site("block", "attention", 3, 4, ("q", "k", "v"), "out")


def _heads(*writers: Writer) -> Site:
    return linear_site("block", "attention", 3, 4, writers, "out")


@pytest.mark.parametrize(
    ("site", "narrowable"),
    [
        (HEADS, True),
        (_heads("q", "k"), False),
        (_heads(("qkv", (0, 12, 24))), False),
        (_heads("q", ("kv", (0, 12))), False),
        (_heads(("qk", (0, 12)), "v", "w"), False),
        (replace(HEADS, slices=(*HEADS.slices, Slice("bias", "channels"))), False),
    ],
)
def test_heads_can_be_narrowed_where_each_has_its_own_linear(site: Site, narrowable: bool) -> None:
    assert ATTENTION.narrowable(site) is narrowable


def test_neurons_cant_be_narrowed() -> None:
    assert not FEED_FORWARD.narrowable(HEADS)
    assert (ATTENTION.narrows, FEED_FORWARD.narrows) == (True, False)


@pytest.mark.parametrize(
    ("module", "shape", "alike"),
    [
        (nn.LayerNorm(4), (2, 3, 7, 4), True),
        (nn.LayerNorm(4), (2, 7, 3, 4), True),
        (nn.RMSNorm(4), (2, 7, 3, 4), True),
        (nn.LayerNorm(12), (2, 7, 12), False),
        (nn.LayerNorm(4), (2, 7, 4), False),
        (nn.LayerNorm(4), (2, 7, 5, 4), False),
        (nn.Linear(4, 4), (2, 3, 7, 4), False),
    ],
)
def test_a_norm_of_one_heads_length_acts_on_every_head_alike(
    module: nn.Module, shape: tuple[int, ...], alike: bool
) -> None:
    assert ATTENTION.acts_alike(HEADS, module, torch.empty(shape)) is alike
    assert not FEED_FORWARD.acts_alike(HEADS, module, torch.empty(shape))
