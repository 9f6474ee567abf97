"""What a site says about its channels, on one small enough to write every index down."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.sites.site import Producer, Site

# Three heads of four channels.
HEADS = Site("block", "attention", 3, 4, (Producer("q"), Producer("k"), Producer("v")), "out")
GATED = Site("block", "feed_forward", 5, 1, (Producer("up", (0, 5)),), "down")
KEPT = torch.tensor([True, False, True])


def test_the_width_is_all_channels() -> None:
    assert (HEADS.width, GATED.width) == (12, 5)


def test_whole_heads_keep_all_their_channels() -> None:
    assert HEADS.channels(KEPT).nonzero().flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert HEADS.columns(KEPT).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert HEADS.rows(HEADS.producers[0], KEPT).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_narrower_heads_keep_the_first_channels() -> None:
    marked = HEADS.channels(KEPT, 3)
    assert marked.dtype == torch.bool
    assert marked.shape == (12,)
    assert marked.nonzero().flatten().tolist() == [0, 1, 2, 8, 9, 10]
    assert HEADS.columns(KEPT, 3).tolist() == [0, 1, 2, 8, 9, 10]
    assert HEADS.rows(Producer("q"), KEPT, 3).tolist() == [0, 1, 2, 8, 9, 10]
    assert HEADS.columns(KEPT, 4).tolist() == HEADS.columns(KEPT).tolist()


def test_every_block_of_a_producer_loses_the_same_units() -> None:
    kept = torch.tensor([False, True, True, False, True])
    assert GATED.columns(kept).tolist() == [1, 2, 4]
    assert GATED.rows(GATED.producers[0], kept).tolist() == [1, 2, 4, 6, 7, 9]
    fused = Producer("qkv", (0, 12, 24))
    rows = HEADS.rows(fused, torch.tensor([False, True, False]), 2)
    assert rows.tolist() == [4, 5, 16, 17, 28, 29]


@pytest.mark.parametrize(
    ("site", "narrowable"),
    [
        (HEADS, True),
        (GATED, False),
        (replace(HEADS, kind="feed_forward"), False),
        (replace(HEADS, producers=HEADS.producers[:2]), False),
        (replace(HEADS, producers=(Producer("qkv", (0, 12, 24)),)), False),
        (replace(HEADS, producers=(Producer("q"), Producer("kv", (0, 12)))), False),
        (replace(HEADS, producers=(Producer("qk", (0, 12)), Producer("v"), Producer("w"))), False),
    ],
)
def test_heads_can_be_narrowed_where_each_has_its_own_linear(site: Site, narrowable: bool) -> None:
    assert site.narrowable is narrowable


def test_a_producer_has_one_block_unless_it_says_more() -> None:
    assert Producer("q").offsets == (0,)
