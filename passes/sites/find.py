"""Find the sites of a program by the graph's shape, never by a class's name."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

from passes.errors import PlanError
from passes.program.program import Program
from passes.sites.kinds import kinds
from passes.sites.site import Site, Unsupported
from passes.sites.site_nodes import Constant, SiteNodes

__all__ = [
    "Constant",
    "SiteNodes",
    "find_sites",
    "find_unsupported",
    "locate",
    "locate_all",
    "locate_each",
    "locate_in_copy",
]


@dataclass(frozen=True)
class _Search:
    """What a search gave, and what it looked at."""

    looked_at: tuple[list[Any], list[ref[Any]]]
    places: Mapping[Site, SiteNodes]
    unsupported: tuple[Unsupported, ...]


def locate_all(program: Program) -> Mapping[Site, SiteNodes]:
    """Find every site with its nodes, in graph order (by where their outputs are made)."""
    return _search(program).places


def find_sites(program: Program) -> tuple[Site, ...]:
    """Find the sites that units can be removed from, of every kind.

    They are kept with the program and looked for again only if it has been changed.

    Args:
        program: a raised program.

    Returns:
        The sites in graph order; names are unique.
    """
    return tuple(locate_all(program))


def find_unsupported(program: Program) -> tuple[Unsupported, ...]:
    """Find what looks like a site and can't be handled, with the reason."""
    return _search(program).unsupported


def locate(program: Program, site: Site) -> SiteNodes:
    """Give a site's nodes in this program.

    Raises:
        PlanError: the program has no such site, or one of another geometry.
    """
    return locate_each(program, [site])[0]


def locate_each(program: Program, sites: Sequence[Site]) -> list[SiteNodes]:
    """Give the nodes of several sites.

    Raises:
        PlanError: the program lacks one of them, or has it with another geometry.
    """
    places = locate_all(program)
    for site in sites:
        if site not in places:
            raise PlanError(f"the program has no site {site.name!r} as described; find the sites of this program anew")
    return [places[site] for site in sites]


def locate_in_copy(program: Program, copied: Program, sites: Sequence[Site]) -> list[SiteNodes]:
    """Give the nodes of a program's sites in `program.copy()`, which nobody has changed yet.

    Raises:
        PlanError: as `locate_each`.
    """
    copies = dict(zip(program.graph.nodes, copied.graph.nodes, strict=True))
    return [nodes.mapped(copies) for nodes in locate_each(program, sites)]


def _search(program: Program) -> _Search:
    looked_at = _looked_at(program)
    search: _Search | None = program.facts.get("sites")
    if search is None or not _same(search.looked_at, looked_at):
        search = program.facts["sites"] = _new_search(program, looked_at)
    return search


def _looked_at(program: Program) -> tuple[list[Any], list[ref[Any]]]:
    """List what sites are found by; all of it is replaced, never changed in place, when a graph is changed.

    Modules and parameters come second, by reference alone: those that a program has no more need not be kept for it.
    """
    seen: list[Any] = [*kinds()]
    modules: list[ref[Any]] = []
    for node in program.graph.nodes:
        seen += (node, node.target, node.args, node.kwargs, node.meta.get("val"))
        if node.op == "call_module":
            module = program.module(str(node.target))
            modules += (ref(module), *map(ref, module.parameters(recurse=False)))
    return seen, modules


def _same(before: tuple[list[Any], list[ref[Any]]], now: tuple[list[Any], list[ref[Any]]]) -> bool:
    (seen, modules), (seen_now, modules_now) = before, now
    if len(seen) != len(seen_now) or len(modules) != len(modules_now):
        return False
    pairs = ((left(), right()) for left, right in zip(modules, modules_now, strict=True))
    return all(map(operator.is_, seen, seen_now)) and all(left is right for left, right in pairs)


def _new_search(program: Program, looked_at: tuple[list[Any], list[ref[Any]]]) -> _Search:
    found = [item for kind in kinds() for item in kind.find(program)]
    order = {node: at for at, node in enumerate(program.graph.nodes)}
    sites = [item for item in found if not isinstance(item, Unsupported)]
    sites.sort(key=lambda item: order[item[1].reader])
    counts = Counter(site.name for site, _ in sites)
    # Two sites under one path (a block that holds its linears itself) are told apart by what reads their units.
    places = {site if counts[site.name] == 1 else replace(site, name=site.tap): nodes for site, nodes in sites}
    return _Search(looked_at, places, tuple(item for item in found if isinstance(item, Unsupported)))
