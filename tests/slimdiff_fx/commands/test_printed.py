"""Tables fit a terminal of 80 columns, one line a site, and name sites as the page does."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console, RenderableType

from passes.sites.site import Unsupported
from slimdiff_fx.commands.printed import inspect_table, slim_table
from slimdiff_fx.saved.site_names import short_name
from slimdiff_fx.saved.summary import SiteSummary, Summary, change, short, size


def _site(name: str, kind: str, units: int, kept: int, width: int, width_kept: int, params: int) -> SiteSummary:
    share = kept * width_kept / (units * width)
    return SiteSummary(name, kind, units, kept, width, width_kept, params, int(share * params), 9 * params, 9 * params)


def _summary(sites: Sequence[SiteSummary], unsupported: tuple[Unsupported, ...] = ()) -> Summary:
    params = sum(site.params for site in sites)
    return Summary(tuple(sites), 2 * params, 2 * params, 20 * params, 20 * params, unsupported)


def _shown(table: RenderableType, *, live: bool) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=live, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


TRANSFORMER = "attentions.1.transformer_blocks.9"
SMALL = _summary(
    [
        _site(f"down_blocks.1.{TRANSFORMER}.attn1", "attention", 8, 8, 24, 1, 147_456),
        _site(f"mid_block.{TRANSFORMER}.attn2", "attention", 8, 6, 24, 24, 122_880),
        _site(f"up_blocks.0.{TRANSFORMER}.ff.net", "feed_forward", 768, 143, 1, 1, 444_000),
    ]
)
LARGE = _summary(  # as long as anything in Stable Diffusion XL and PixArt
    [
        _site("transformer_blocks.27.attn1", "attention", 20, 20, 160, 160, 13_100_000),
        _site(f"down_blocks.2.{TRANSFORMER}.ff.net", "feed_forward", 10240, 10240, 1, 1, 39_300_000),
    ]
)


@pytest.mark.parametrize("live", [False, True], ids=["piped", "live"])
@pytest.mark.parametrize("summary", [SMALL, LARGE], ids=["small", "large"])
def test_a_site_is_one_line_of_80_columns_and_nothing_is_cut(summary: Summary, live: bool) -> None:
    for table in (slim_table(summary), inspect_table(summary)):
        lines = _shown(table, live=live)
        assert max(map(len, lines)) <= 80
        assert not [line for line in lines if "…" in line]
        for site in summary.sites:
            assert sum(line.startswith(short_name(site.name)) for line in lines) == 1


def test_what_stays_is_said_in_units_and_shares() -> None:
    lines = _shown(slim_table(SMALL), live=False)
    narrow, fewer, neurons = [line.split("  ") for line in lines if " · " in line]
    assert "8×24 → 8×1 heads" in " ".join(narrow)
    assert narrow[-1].strip() == "4%"
    assert "8×24 → 6×24 heads" in " ".join(fewer)
    assert "768 → 143 neurons" in " ".join(neurons)
    assert "147k → 6.14k" in " ".join(narrow)


def test_what_is_left_whole_is_named_with_its_reason() -> None:
    left = Unsupported("mid_block.attn", "attention", "its keys are normalized over all heads together")
    text = "\n".join(_shown(inspect_table(_summary(SMALL.sites, (left,))), live=False))
    assert "mid_block.attn" in text
    assert "2 attention and 1 feed-forward sites, 1 left whole" in text


def test_words_for_numbers() -> None:
    assert [change(ratio) for ratio in (0.819, 1.0, 1.05)] == ["−18.1%", "+0.0%", "+5.0%"]
    assert [size(count) for count in (38_000_000, 1_500, 12)] == ["38.0 MB", "1.50 kB", "12 B"]
    assert [short(count) for count in (859_520_964, 1200, 12)] == ["860M", "1.20k", "12"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.2.attn1", "down 1 · 0.2 · attn1"),
        ("mid_block.attentions.0.transformer_blocks.0.ff.net", "mid · 0.0 · ff"),
        ("transformer_blocks.12.attn2", "transformer 12 · attn2"),
    ],
)
def test_short_names(path: str, name: str) -> None:
    assert short_name(path) == name
