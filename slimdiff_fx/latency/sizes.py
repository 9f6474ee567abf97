"""At which of its sizes a site is timed."""

from __future__ import annotations

from passes.sites.site import Site
from passes.solve.error_curves import Size, sizes_offered

_POINTS = 7
# Kernels compute so many columns at once: what lies between two multiples takes as long as the upper one (measured, see
# docs/adr/0018). Sites of fewer than 4 such steps are timed at any width.
_COLUMNS = 16


def sizes_timed(site: Site, narrow: bool, align: int | None) -> list[Size]:
    """List the sizes at which a site is timed: some of those offered, the whole one and the smallest among them."""
    whole, *smaller = sizes_offered(site, narrow, align)
    even = [size for size in smaller if size[0] * size[1] % step_of(site) == 0]
    return [whole, *_spread(even or smaller, _POINTS)]


def step_of(site: Site) -> int:
    """Give the step in which a site's channels cost time."""
    return _COLUMNS if site.width >= 4 * _COLUMNS else 1


def nearest_half(site: Site, narrow: bool, align: int | None) -> Size:
    """Give the timed size that is nearest to half of the site."""
    return min(sizes_timed(site, narrow, align), key=lambda size: abs(size[0] * size[1] - site.width / 2))


def _spread(sizes: list[Size], count: int) -> list[Size]:
    """Take some of the sizes, evenly, both ends included."""
    if len(sizes) <= count:
        return sizes
    return [sizes[round(index * (len(sizes) - 1) / (count - 1))] for index in range(count)]
