"""Give sites that are the same in every repeated block one common size.

Compilers that compile a block once and run it for all blocks of its shape need blocks to stay alike. Sites form a
family if they have the same place within their block and the same geometry; the family then chooses as one: what it
costs and what it loses at a size is the sum over its members, so that the optimum over families is the same optimum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from passes.analyze.optimize import Option
from passes.errors import BudgetError
from passes.sites.site import Site

Size = tuple[int, int]
Family = tuple[str, ...]


def families(sites: Sequence[Site], parameters: Mapping[str, Tensor]) -> tuple[Family, ...]:
    """Group sites that have the same role and the same shapes.

    The role is the path from the innermost numbered list of blocks on, without numbers: the first attention of a
    transformer block is the same in whichever part of a U-Net the block is. Of the shapes, all count: a block whose
    text is wider, or whose linears have a bias, is another kind of block.

    Args:
        sites: all sites.
        parameters: of the dense model, by name.

    Returns:
        Site names, in the sites' order; a site that has no like is alone.
    """
    groups: dict[object, list[str]] = {}
    for site in sites:
        shapes = [
            (_within(path, site.name), kind, tuple(parameters[name].shape))
            for path in site.paths
            for kind in ("weight", "bias")
            if (name := f"{path}.{kind}") in parameters
        ]
        slices = tuple((_within(each.path, site.name), each.side, each.start, each.per_unit) for each in site.slices)
        place = (_role(site.name), site.kind, site.units, slices, tuple(shapes))
        groups.setdefault(place, []).append(site.name)
    return tuple(tuple(names) for names in groups.values())


def _role(name: str) -> str:
    """Give a site's place within its block.

    >>> _role("up_blocks.1.attentions.0.transformer_blocks.2.attn1")
    'transformer_blocks.*.attn1'
    """
    numbered = re.fullmatch(r"(?:.*\.)?([^.]+\.)\d+(\..*)?", name)
    return f"{numbered[1]}*{numbered[2] or ''}" if numbered else name


def _within(path: str, site: str) -> str:
    return path.removeprefix(f"{site}.") if path.startswith(f"{site}.") else _role(path)


def sizes_of(site: Site, choices: Sequence[tuple[int, int | None]]) -> list[Size]:
    """Write choices (units, channels of each or None for all) so that equal sizes are equal."""
    return [(units, site.unit_width if width is None else width) for units, width in choices]


def joined(
    found: Sequence[Family], options: Mapping[str, Sequence[Option]], sizes: Mapping[str, Sequence[Size]]
) -> dict[str, list[Option]]:
    """Make one list of options for each family: at every size that all members offer, their sums.

    Args:
        found: the families.
        options: by site, as `passes.analyze.optimize` takes them.
        sizes: by site, the size at each option's index.

    Returns:
        By the name of a family's first site; indices are that site's.

    Raises:
        BudgetError: the members of a family offer no size in common.
    """
    result: dict[str, list[Option]] = {}
    for family in found:
        by_size = [{sizes[name][option.index]: option for option in options[name]} for name in family]
        common = [size for size in by_size[0] if all(size in others for others in by_size[1:])]
        if not common:
            raise BudgetError(
                f"{family[0]!r} and the {len(family) - 1} sites like it offer no common size; leave uniform out"
            )
        result[family[0]] = [
            replace(
                by_size[0][size],
                cost=sum(member[size].cost for member in by_size),
                error=sum(member[size].error for member in by_size),
                rounding=sum(member[size].rounding for member in by_size),
            )
            for size in common
        ]
    return result


def spread(
    found: Sequence[Family],
    chosen: Mapping[str, Option],
    options: Mapping[str, Sequence[Option]],
    sizes: Mapping[str, Sequence[Size]],
) -> dict[str, Option]:
    """Give every member of a family its own option of the size that the family chose.

    Args:
        found: the families.
        chosen: by the name of a family's first site.
        options: by site, what `joined` was made from.
        sizes: likewise.
    """
    result: dict[str, Option] = {}
    for family in found:
        size = sizes[family[0]][chosen[family[0]].index]
        for name in family:
            result[name] = next(option for option in options[name] if sizes[name][option.index] == size)
    return result
