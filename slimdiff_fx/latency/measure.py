"""Measure what sizes of sites cost, and what their sum is in the whole denoiser.

Everything is a ratio within one turn, so that a machine that is busy for a while shifts no figure against another:
- a size of a site, to the dense site (`site_ratios`);
- a dense site, to the dense denoiser (`shares`), which tells how much sites weigh against each other;
- a denoiser whose attentions, or feed-forwards, are about half as wide, to the dense one (`gains`). What it saves over
  what the first two say it should save corrects them for what a site costs less, or more, among the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from passes.plan.slim_plan import SlimPlan
from passes.sites.site import Site
from passes.solve.error_curves import Size
from slimdiff_fx.latency.target import Target
from slimdiff_fx.timing.bench import Bench
from slimdiff_fx.timing.interleave import paired_ratio
from slimdiff_fx.timing.runtimes import Forward

_DENSE = "dense"


def site_ratios(target: Target, site: Site, sizes: Sequence[Size], bench: Bench) -> Iterator[tuple[int, float]]:
    """Time some sizes of a site against the dense one.

    Yields:
        channels (units times width), and the time as a share of the dense site's.
    """
    dense = bench.ready(target.site(site, site.units, None))
    for units, width in sizes:
        # two at a time: attention over many tokens takes gigabytes
        timings = bench.sites({_DENSE: dense, "slim": bench.ready(target.site(site, units, width))})
        yield units * width, paired_ratio(timings["slim"], timings[_DENSE])


def shares(target: Target, dense: Forward, sites: Mapping[str, Site], bench: Bench) -> tuple[float, dict[str, float]]:
    """Time the dense denoiser, and different dense sites against it.

    Args:
        target: the denoiser.
        dense: runs it.
        sites: by a key of their signature, one of each.
        bench: where.

    Returns:
        the denoiser's median in seconds, and by key each site's share of it.
    """
    forwards = {key: bench.ready(target.site(site, site.units, None)) for key, site in sites.items()}
    timings = bench.sites({_DENSE: dense, **forwards})
    return timings[_DENSE].median, {key: paired_ratio(timings[key], timings[_DENSE]) for key in sites}


def gain(target: Target, dense: Forward, half: SlimPlan, expected: float, most: float, bench: Bench) -> float:
    """Time a half denoiser against the dense one.

    It also takes out what interrupts long runs more often than short ones: on a busy machine a site alone seems a
    smaller share of the denoiser than it is.

    Args:
        target: the denoiser.
        dense: runs it.
        half: the plan of that denoiser; see `shaped_plan`.
        expected: what it should save, as a share of the dense one, by its sites' own times.
        most: the largest answer that can be true: all sites of the kind take the whole time.
        bench: where.

    Returns:
        what it saves over what it should.
    """
    if expected <= 0:
        return 1.0  # sites that cost nothing, or don't shrink: nothing to correct
    timings = bench.whole({_DENSE: dense, "half": bench.ready(target.whole("half", half))})
    saved = 1 - paired_ratio(timings["half"], timings[_DENSE])
    return min(max(saved / expected, 0.0), most)
