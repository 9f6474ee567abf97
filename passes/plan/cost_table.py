"""What a budget counts: of the whole denoiser, and of every size of every site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from passes.plan import costs
from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.sites.find import locate_all
from passes.sites.site import Site


@dataclass(frozen=True)
class CostTable:
    """Costs in whole numbers of one unit: parameters, multiply-adds, nanoseconds.

    Attributes:
        name: one word for the record: "params", "macs", "latency".
        words: what they are called in a sentence: "parameters".
        total: of the whole dense denoiser.
        sites: by site name, what it costs with so many channels left, units times width. A curve need be neither
            convex nor monotone.
        record: where the numbers come from, as JSON values, for the plan's record.
    """

    name: str
    words: str
    total: int
    sites: Mapping[str, Callable[[int], int]]
    record: Mapping[str, Any] = field(default_factory=dict)

    def of(self, site: Site, units: int, width: int | None = None) -> int:
        """Give what a site costs with `units` left, each `width` wide; None for their whole width."""
        return self.sites[site.name](units * (width or site.unit_width))

    def whole(self, site: Site) -> int:
        """Give what the dense site costs."""
        return self.of(site, site.units)

    def rest(self, sites: Sequence[Site]) -> int:
        """Give what everything outside the sites costs."""
        return self.total - sum(map(self.whole, sites))

    def kept(self, sites: Sequence[Site], entries: Mapping[str, SitePlan]) -> int:
        """Give what the denoiser costs under a plan."""
        return self.rest(sites) + sum(
            self.of(site, len(entries[site.name].kept), entries[site.name].width) for site in sites
        )


def params_table(program: Program, sites: Sequence[Site]) -> CostTable:
    """Count parameters."""
    whole = {site.name: costs.site_params(program, site) for site in sites}
    return CostTable("params", "parameters", costs.program_params(program), _in_proportion(sites, whole))


def macs_table(program: Program, sites: Sequence[Site]) -> CostTable:
    """Count multiply-adds at the captured sizes."""
    places = locate_all(program)
    whole = {site.name: costs.site_macs(program, site, places[site]) for site in sites}
    return CostTable("macs", "multiply-adds", costs.program_macs(program), _in_proportion(sites, whole))


def _in_proportion(sites: Sequence[Site], whole: Mapping[str, int]) -> dict[str, Callable[[int], int]]:
    return {site.name: partial(_share, whole[site.name], site.width) for site in sites}


def _share(whole: int, width: int, channels: int) -> int:
    return whole * channels // width
