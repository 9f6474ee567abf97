"""What a site says about its channels, on one small enough to write every index down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.sites.site import Side, Site, Slice, axes_gone, axis_of, staying
from tests.sites import linear_site

# Three heads of four channels.
HEADS = linear_site("block", "attention", 3, 4, ("q", "k", "v"), "out")
GATED = linear_site("block", "feed_forward", 5, 1, (("up", (0, 5)),), "down")
# Two heads of two channels for keys and values, each with three heads of queries, behind 4 rows of something else.
GROUPED = Site(
    "block",
    "attention",
    2,
    (Slice("qkv", "out", 4, 6), Slice("qkv", "out", 16, 2), Slice("qkv", "out", 20, 2), Slice("out", "in", 3, 6)),
    "out",
)
KEPT = torch.tensor([True, False, True])


def _left(site: Site, path: str, side: Side, size: int, kept: Tensor, width: int | None = None) -> list[int]:
    stays: list[int] = staying(size, site.gone(kept, width)[path, side]).tolist()
    return stays


def test_the_width_is_all_channels_that_are_read() -> None:
    assert (HEADS.width, GATED.width, GROUPED.width) == (12, 5, 12)
    assert (HEADS.unit_width, GATED.unit_width, GROUPED.unit_width) == (4, 1, 6)


def test_what_reads_comes_last_and_each_module_once() -> None:
    assert HEADS.paths == ("q", "k", "v", "out")
    assert GATED.paths == ("up", "down")
    assert GROUPED.paths == ("qkv", "out")
    assert [each.path for each in GROUPED.writers] == ["qkv"] * 3
    assert GROUPED.reader == Slice("out", "in", 3, 6)


def test_whole_heads_keep_all_their_channels() -> None:
    assert HEADS.channels(KEPT).nonzero().flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert HEADS.columns(KEPT).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert _left(HEADS, "q", "out", 12, KEPT) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert _left(HEADS, "out", "in", 12, KEPT) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_narrower_heads_keep_the_first_channels() -> None:
    marked = HEADS.channels(KEPT, 3)
    assert marked.dtype == torch.bool
    assert marked.shape == (12,)
    assert marked.nonzero().flatten().tolist() == [0, 1, 2, 8, 9, 10]
    assert HEADS.columns(KEPT, 3).tolist() == [0, 1, 2, 8, 9, 10]
    assert _left(HEADS, "q", "out", 12, KEPT, 3) == [0, 1, 2, 8, 9, 10]
    assert HEADS.columns(KEPT, 4).tolist() == HEADS.columns(KEPT).tolist()


def test_every_block_of_a_module_loses_the_same_units() -> None:
    kept = torch.tensor([False, True, True, False, True])
    assert GATED.columns(kept).tolist() == [1, 2, 4]
    assert _left(GATED, "up", "out", 10, kept) == [1, 2, 4, 6, 7, 9]
    fused = linear_site("block", "attention", 3, 4, (("qkv", (0, 12, 24)),), "out")
    assert _left(fused, "qkv", "out", 36, torch.tensor([False, True, False]), 2) == [4, 5, 16, 17, 28, 29]


def test_units_have_other_widths_in_other_places_and_what_is_not_theirs_stays() -> None:
    gone = GROUPED.gone(torch.tensor([True, False]))
    assert gone.keys() == {("qkv", "out"), ("out", "in")}
    assert gone["qkv", "out"].tolist() == [10, 11, 12, 13, 14, 15, 18, 19, 22, 23]
    assert gone["out", "in"].tolist() == [9, 10, 11, 12, 13, 14]
    assert _left(GROUPED, "out", "in", 16, torch.tensor([True, False])) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 15]


@pytest.mark.parametrize(
    ("side", "rank", "axis"),
    [
        *(("out", 2, 0), ("out", 1, 0), ("out", 4, 0), ("in", 2, 1), ("in", 4, 1), ("in", 1, None)),
        *(("channels", 1, 0), ("channels", 2, 1)),
    ],
)
def test_channels_are_on_these_axes_of_a_parameter(side: Side, rank: int, axis: int | None) -> None:
    assert axis_of(side, rank) == axis


def test_both_sides_of_one_module_lose_channels() -> None:
    gone: dict[tuple[str, Side], Tensor] = {("a", "out"): torch.tensor([1]), ("a", "in"): torch.tensor([0, 2])}
    assert {axis: channels.tolist() for axis, channels in axes_gone("a", 4, gone).items()} == {0: [1], 1: [0, 2]}
    assert {axis: channels.tolist() for axis, channels in axes_gone("a", 1, gone).items()} == {0: [1]}
    assert axes_gone("b", 4, gone) == {}


def test_a_slice_begins_at_the_first_channel_unless_it_says_more() -> None:
    assert Slice("q", "out") == Slice("q", "out", 0, 1)
