"""Mend the numbers that a graph has of a site: head counts and widths that were written into reshapes and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from passes.errors import CouplingError
from passes.sites.site import Site
from passes.sites.site_nodes import Constant


def mend_constants(site: Site, slim: Site, constants: Sequence[Constant]) -> None:
    """Write the slim site's unit count and width into every number that the trace baked in.

    Raises:
        CouplingError: a number isn't what the site says it is.
    """
    for constant in constants:
        node, path = constant.node, constant.argument
        expected = constant.value(site)
        found = _read((*node.args, node.kwargs), _absolute(node, path))
        if found != expected:
            raise CouplingError(
                f"site {site.name!r}: {node.name!r} holds {found} at {path} where {expected} was expected; "
                "leave this site whole"
            )
        _write(node, path, constant.value(slim))


def _absolute(node: fx.Node, path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return (len(node.args), *path) if isinstance(path[0], str) else path


def _read(value: Any, path: tuple[int | str, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _write(node: fx.Node, path: tuple[int | str, ...], number: int) -> None:
    first, *rest = path
    if isinstance(first, str):
        node.update_kwarg(first, _replaced(node.kwargs[first], rest, number))
    else:
        node.update_arg(first, _replaced(node.args[first], rest, number))


def _replaced(value: Any, path: Sequence[int | str], number: int) -> Any:
    if not path:
        return number
    if isinstance(value, Mapping):
        return {key: _replaced(item, path[1:], number) if key == path[0] else item for key, item in value.items()}
    return type(value)(
        _replaced(item, path[1:], number) if position == path[0] else item for position, item in enumerate(value)
    )
