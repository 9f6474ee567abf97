"""Which sizes of a site a plan may choose from: known from its shapes alone."""

from __future__ import annotations

from passes.plan.alignment import is_aligned
from passes.sites.site import Site
from passes.solve.error_curves import narrows, widths_offered

Size = tuple[int, int]  # units, width of each


def sizes_offered(site: Site, narrow: bool, align: int | None) -> list[Size]:
    """List the sizes of a site that a plan may choose, from the whole one down.

    Args:
        site: the dense site.
        narrow: heads become narrower where they can; otherwise whole heads go.
        align: as policies have it.
    """
    if narrow and narrows(site):
        smaller = [(site.units, width) for width in widths_offered(site)]
    else:
        smaller = [(units, site.unit_width) for units in range(site.units - 1, 0, -1)]
    return [(site.units, site.unit_width), *(size for size in smaller if is_aligned(site, *size, align))]
