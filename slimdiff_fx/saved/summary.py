"""Parameters and multiply-adds before and after a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from passes.plan.costs import entry_cost, program_macs, program_params, site_macs, site_params
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.find import locate_all
from passes.sites.site import Site, Unsupported


@dataclass(frozen=True)
class SiteSummary:
    """One site, dense and slim.

    Attributes:
        name: dotted path.
        kind: of site.
        units: how many there are.
        kept: how many of them stay.
        width: channels of a unit: the head dimension, or 1.
        width_kept: channels of a unit that stays.
        params: parameters of the site's linears.
        params_kept: of the slim ones.
        macs: multiply-adds at the captured sizes, attention matmuls included.
        macs_kept: of the slim site.
    """

    name: str
    kind: str
    units: int
    kept: int
    width: int
    width_kept: int
    params: int
    params_kept: int
    macs: int
    macs_kept: int


@dataclass(frozen=True)
class Summary:
    """The whole denoiser, dense and slim.

    Attributes:
        sites: every site, in the graph's order.
        params: parameters of the whole denoiser.
        params_kept: what stays of them.
        macs: multiply-adds of one forward at the captured sizes.
        macs_kept: what stays of them.
        unsupported: what looks like a site and is left whole.
    """

    sites: tuple[SiteSummary, ...]
    params: int
    params_kept: int
    macs: int
    macs_kept: int
    unsupported: tuple[Unsupported, ...] = ()

    @property
    def site_params(self) -> int:
        """Parameters of all sites' linears."""
        return sum(site.params for site in self.sites)

    @property
    def site_params_kept(self) -> int:
        """What stays of them."""
        return sum(site.params_kept for site in self.sites)

    def to_json(self) -> dict[str, Any]:
        """Give JSON values."""
        return {
            "params": self.params,
            "params_kept": self.params_kept,
            "macs": self.macs,
            "macs_kept": self.macs_kept,
            "site_params": self.site_params,
            "site_params_kept": self.site_params_kept,
            "sites": [asdict(site) for site in self.sites],
            "unsupported": [asdict(entry) for entry in self.unsupported],
        }


def summarize(
    program: Program,
    sites: tuple[Site, ...],
    plan: SlimPlan | None = None,
    unsupported: tuple[Unsupported, ...] = (),
) -> Summary:
    """Count parameters and multiply-adds, before and after a plan; without a plan everything stays."""
    rows = []
    places = locate_all(program)
    for site in sites:
        whole = SitePlan(site.kind, site.units, tuple(range(site.units)))
        entry = whole if plan is None else plan.sites[site.name]
        params, macs = site_params(program, site), site_macs(program, site, places[site])
        rows.append(
            SiteSummary(
                name=site.name,
                kind=site.kind,
                units=site.units,
                kept=len(entry.kept),
                width=site.unit_width,
                width_kept=entry.width or site.unit_width,
                params=params,
                params_kept=entry_cost(params, site, entry),
                macs=macs,
                macs_kept=entry_cost(macs, site, entry),
            )
        )
    params, macs = program_params(program), program_macs(program)
    return Summary(
        sites=tuple(rows),
        params=params,
        params_kept=params - sum(row.params - row.params_kept for row in rows),
        macs=macs,
        macs_kept=macs - sum(row.macs - row.macs_kept for row in rows),
        unsupported=unsupported,
    )


def change(ratio: float) -> str:
    """Write what a ratio takes away or adds: −18.1%."""
    return f"{ratio - 1:+.1%}".replace("-", "−")


def size(count: int) -> str:
    """Write bytes as file managers do, by thousands.

    Example:
        >>> size(38_000_000), size(1_500)
        ('38.0 MB', '1.50 kB')
    """
    number = short(count)
    return f"{number[:-1]} {number[-1]}B" if number[-1].isalpha() else f"{number} B"


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
