"""Sizes that kernels like: widths of products held to multiples, whichever way units are chosen."""

from __future__ import annotations

from passes.errors import UsageError
from passes.sites.site import Site


def check_align(align: int | None) -> None:
    """Refuse a multiple that is none.

    Raises:
        UsageError: it is not a positive whole number.
    """
    if align is not None and (isinstance(align, bool) or not isinstance(align, int) or align < 1):
        raise UsageError(f"align is {align!r}; it must be a positive whole number, such as 8, 16 or 64")


def is_aligned(site: Site, units: int, width: int | None, align: int | None) -> bool:
    """Tell whether a size may be offered: what kernels see of it is a multiple of `align`, or nothing is gone.

    Products see a site's channels: its neurons, or its heads times their width. Both halves of a gated linear have as
    many rows as there are neurons. Attention kernels see a head by itself, so one that was made narrower has to be a
    multiple too, unless the dense one is no wider than that: it could not be cut at all.

    Args:
        site: the dense site.
        units: how many stay.
        width: channels of each; None for all of them.
        align: the multiple; None allows every size.

    Example:
        >>> out = Slice("block.attn.out", "in", 0, 40)
        >>> site = Site("block.attn", "attention", 8, (out,), out.path)
        >>> [width for width in range(1, 41) if is_aligned(site, 8, width, 16)]
        [16, 32, 40]
    """
    width = width or site.unit_width
    if align is None or units * width == site.width:
        return True
    narrowed = width < site.unit_width and site.unit_width > align
    return units * width % align == 0 and (not narrowed or width % align == 0)


def rounded_up(site: Site, units: int, align: int | None) -> int:
    """Give the smallest number of units, at least `units`, that may be offered."""
    return next(count for count in range(units, site.units + 1) if is_aligned(site, count, None, align))
