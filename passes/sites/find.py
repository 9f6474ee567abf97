"""Find the sites of a program by the graph's shape, never by a class's name."""

from __future__ import annotations

from collections.abc import Sequence

from passes.errors import PlanError
from passes.program.program import Program
from passes.sites.attention import find_attention
from passes.sites.feed_forward import find_feed_forward
from passes.sites.site import Site, Unsupported
from passes.sites.site_nodes import Constant, SiteNodes

__all__ = ["Constant", "SiteNodes", "find_sites", "find_unsupported", "locate", "locate_all", "locate_each"]


def locate_all(program: Program) -> dict[Site, SiteNodes]:
    """Find every site with its nodes, in graph order (by where their outputs are made)."""
    order = {node: at for at, node in enumerate(program.graph.nodes)}
    found = [
        item for item in (*find_attention(program), *find_feed_forward(program)) if not isinstance(item, Unsupported)
    ]
    found.sort(key=lambda item: order[item[1].consumer])
    counts: dict[str, int] = {}
    for site, _ in found:
        counts[site.name] = counts.get(site.name, 0) + 1
    # Two sites under one path (a block that holds its linears itself) are told apart by their consumers.
    return {
        site if counts[site.name] == 1 else Site(**{**site.__dict__, "name": site.consumer}): nodes
        for site, nodes in found
    }


def find_sites(program: Program) -> tuple[Site, ...]:
    """Find the attentions and feed-forwards that units can be removed from.

    Args:
        program: a raised program.

    Returns:
        The sites in graph order; names are unique.
    """
    return tuple(locate_all(program))


def find_unsupported(program: Program) -> tuple[Unsupported, ...]:
    """Find what looks like a site and can't be handled, with the reason."""
    return tuple(
        item for item in (*find_attention(program), *find_feed_forward(program)) if isinstance(item, Unsupported)
    )


def locate(program: Program, site: Site) -> SiteNodes:
    """Give a site's nodes in this program.

    Raises:
        PlanError: the program has no such site, or one of another geometry.
    """
    return locate_each(program, [site])[0]


def locate_each(program: Program, sites: Sequence[Site]) -> list[SiteNodes]:
    """Give the nodes of several sites, by one search of the graph.

    Raises:
        PlanError: the program lacks one of them, or has it with another geometry.
    """
    places = locate_all(program)
    for site in sites:
        if site not in places:
            raise PlanError(f"the program has no site {site.name!r} as described; find the sites of this program anew")
    return [places[site] for site in sites]
