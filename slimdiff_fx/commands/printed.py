"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from passes.plan.slim_plan import SlimPlan
from passes.sites.kinds import kind_names, kind_of
from slimdiff_fx.latency.outcome import expected_ratio
from slimdiff_fx.saved.site_names import short_name
from slimdiff_fx.saved.summary import SiteSummary, Summary, short
from slimdiff_fx.slimming.result import SlimResult

_TERMINAL = 80  # columns


def inspect_table(summary: Summary) -> RenderableType:
    """Draw every site of a dense denoiser, and what was left out with the reason."""
    rows = [
        (
            short_name(site.name),
            f"{_units(site, site.units, site.width)} {kind_of(site.kind).words}",
            short(site.params),
            short(site.macs),
        )
        for site in summary.sites
    ]
    totals = [
        ("all sites", "", short(summary.site_params), short(sum(site.macs for site in summary.sites))),
        ("whole denoiser", "", short(summary.params), short(summary.macs)),
    ]
    table = _table("Sites", ("site", "units", "params", "MACs"), rows, totals)
    *counted, last = (_count(summary, kind) for kind in kind_names())
    counts = Text(f"{', '.join(counted)} and {last} sites, {len(summary.unsupported)} left whole")
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
    """Draw what stays of every site; heads have channels, and become narrower or fewer."""
    rows = [
        (
            short_name(site.name),
            f"{_units(site, site.units, site.width)} → {_kept(site)} {kind_of(site.kind).words}",
            f"{short(site.params)} → {short(site.params_kept)}",
            f"{short(site.macs)} → {short(site.macs_kept)}",
            _share(site.params_kept, site.params),
        )
        for site in summary.sites
    ]
    macs = sum(site.macs for site in summary.sites)
    macs_kept = sum(site.macs_kept for site in summary.sites)
    totals = [
        (
            "all sites",
            "",
            f"{short(summary.site_params)} → {short(summary.site_params_kept)}",
            f"{short(macs)} → {short(macs_kept)}",
            _share(summary.site_params_kept, summary.site_params),
        ),
        (
            "whole denoiser",
            "",
            f"{short(summary.params)} → {short(summary.params_kept)}",
            f"{short(summary.macs)} → {short(summary.macs_kept)}",
            _share(summary.params_kept, summary.params),
        ),
    ]
    return _table("Dense → slim", ("site", "units", "params", "MACs", "stays"), rows, totals)


def _table(
    title: str, names: Sequence[str], rows: Sequence[Sequence[str]], totals: Sequence[Sequence[str]]
) -> RenderableType:
    """Draw a table without rules between its columns, so that a row is one line of a terminal of 80 columns."""
    widths = [max(map(len, column)) for column in zip(names, *rows, *totals, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _TERMINAL else 1
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    table.padding = (0, gap, 0, 0)
    for name in names:
        table.add_column(name, justify="left" if name == "site" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    table.add_row()
    for row in totals:
        table.add_row(*row, style="bold")
    return table


def _kept(site: SiteSummary) -> str:
    return _units(site, site.kept, site.width_kept)


def _units(site: SiteSummary, units: int, width: int) -> str:
    return str(units) if site.width == 1 else f"{units}×{width}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _count(summary: Summary, kind: str) -> str:
    return f"{sum(site.kind == kind for site in summary.sites)} {kind.replace('_', '-')}"


def tell_prediction(plan: SlimPlan, console: Console) -> None:
    """Say which error a plan expects."""
    expected = plan.predicted.get("relative_mse")
    if expected is not None:
        console.print(f"expected relative squared error of the prediction: {expected:.1e}", highlight=False)
    ratio = expected_ratio(plan)
    if ratio is not None:
        console.print(f"expected latency: {ratio:.3f} of the dense one", highlight=False)


def what_went(result: SlimResult) -> str:
    """Say how much of the sites is gone."""
    summary = result.summary
    share = 1 - summary.site_params_kept / summary.site_params if summary.site_params else 0.0
    return f"{share:.1%} of the sites' weights removed, {1 - summary.macs_kept / summary.macs:.1%} of the MACs"
