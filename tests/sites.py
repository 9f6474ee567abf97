"""Sites written by hand, of linears alone: what makes the units, and what reads them."""

from __future__ import annotations

from passes.sites.site import Site, Slice

# a path whose rows begin with the first unit's, or a path and where each block of units begins in its rows
Writer = str | tuple[str, tuple[int, ...]]


def linear_site(name: str, kind: str, units: int, width: int, writers: tuple[Writer, ...], reader: str) -> Site:
    """Make a site whose units are `width` channels everywhere."""
    written = [(each, (0,)) if isinstance(each, str) else each for each in writers]
    slices = [Slice(path, "out", start, width) for path, starts in written for start in starts]
    return Site(name, kind, units, (*slices, Slice(reader, "in", 0, width)), reader)


def writers_of(site: Site) -> tuple[Writer, ...]:
    """Give what `linear_site` was given."""
    starts: dict[str, tuple[int, ...]] = {}
    for each in site.writers:
        starts[each.path] = (*starts.get(each.path, ()), each.start)
    return tuple(path if own == (0,) else (path, own) for path, own in starts.items())
