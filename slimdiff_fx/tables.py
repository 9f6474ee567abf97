"""Tables for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimdiff_fx.summary import SiteSummary, Summary

_UNIT_WORDS = {"attention": "heads", "feed_forward": "neurons"}


def inspect_table(summary: Summary) -> RenderableType:
    """Draw every site of a dense denoiser, and what was left out with the reason."""
    table = Table(title="Sites", title_justify="left", header_style="bold")
    table.add_column("site", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("params", justify="right")
    table.add_column("MACs", justify="right")
    for site in summary.sites:
        table.add_row(site.name, f"{site.units} {_UNIT_WORDS[site.kind]}", short(site.params), short(site.macs))
    table.add_section()
    table.add_row("all sites", "", short(summary.site_params), short(sum(site.macs for site in summary.sites)))
    table.add_row("whole denoiser", "", short(summary.params), short(summary.macs))
    counts = Text(
        f"{_count(summary, 'attention')} attention and {_count(summary, 'feed_forward')} feed-forward sites, "
        f"{len(summary.unsupported)} left whole"
    )
    if not summary.unsupported:
        return Group(table, counts)
    left = Table(title="Left whole", title_justify="left", header_style="bold")
    left.add_column("where", overflow="fold")
    left.add_column("kind")
    left.add_column("reason", overflow="fold")
    for entry in summary.unsupported:
        left.add_row(entry.name, entry.kind.replace("_", "-"), entry.reason)
    return Group(table, left, counts)


def slim_table(summary: Summary) -> RenderableType:
    """Draw what stays of every site."""
    table = Table(title="Dense → slim", title_justify="left", header_style="bold")
    table.add_column("site", overflow="fold")
    table.add_column("kept", justify="right")
    table.add_column("params", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("stays", justify="right")
    for site in summary.sites:
        table.add_row(
            site.name,
            f"{site.kept}/{site.units} {_UNIT_WORDS[site.kind]}{_width(site)}",
            f"{short(site.params)} → {short(site.params_kept)}",
            f"{short(site.macs)} → {short(site.macs_kept)}",
            _share(site.params_kept, site.params),
        )
    macs = sum(site.macs for site in summary.sites)
    macs_kept = sum(site.macs_kept for site in summary.sites)
    table.add_section()
    table.add_row(
        "all sites",
        "",
        f"{short(summary.site_params)} → {short(summary.site_params_kept)}",
        f"{short(macs)} → {short(macs_kept)}",
        _share(summary.site_params_kept, summary.site_params),
    )
    table.add_row(
        "whole denoiser",
        "",
        f"{short(summary.params)} → {short(summary.params_kept)}",
        f"{short(summary.macs)} → {short(summary.macs_kept)}",
        _share(summary.params_kept, summary.params),
    )
    return table


def _width(site: SiteSummary) -> str:
    return "" if site.width_kept == site.width else f", {site.width_kept}/{site.width} wide"


def short(number: int) -> str:
    """Write a count in three or four digits: 9.53M.

    Example:
        >>> short(859520964), short(1200), short(12)
        ('860M', '1.20k', '12')
    """
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            value = number / size
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{letter}"
    return str(number)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _count(summary: Summary, kind: str) -> int:
    return sum(site.kind == kind for site in summary.sites)
