"""Which kinds of sites there are.

A kind knows how it is found, and also how it is observed and solved for, in wings above this one. So kinds are named
here by the place of their record, and imported when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import cast

from passes.errors import UsageError
from passes.sites.kind import Kind

# module:name of each record
KINDS = ("passes.kinds.attention:ATTENTION", "passes.kinds.feed_forward:FEED_FORWARD")
_added: list[Kind] = []


@cache
def _built_in() -> tuple[Kind, ...]:
    places = (place.split(":") for place in KINDS)
    return tuple(cast(Kind, getattr(import_module(module), name)) for module, name in places)


def kinds() -> tuple[Kind, ...]:
    """Give every kind, those that were added last."""
    return (*_built_in(), *_added)


def kind_names() -> tuple[str, ...]:
    """Give the kinds' names."""
    return tuple(kind.name for kind in kinds())


def kind_of(name: str) -> Kind:
    """Look a kind up by its name.

    Raises:
        UsageError: there is none of that name.
    """
    for kind in kinds():
        if kind.name == name:
            return kind
    raise UsageError(f"there is no kind of site {name!r}, only {', '.join(kind_names())}")


@contextmanager
def with_kind(kind: Kind) -> Iterator[None]:
    """Know one more kind for a while, so that one can be tried without being built in.

    Example:
        >>> with with_kind(my_kind):                      # doctest: +SKIP
        ...     plan = slimdiff_fx.analyze(prepared)

    Raises:
        UsageError: there is one of that name.
    """
    if kind.name in kind_names():
        raise UsageError(f"there is a kind of site {kind.name!r} already")
    _added.append(kind)
    try:
        yield
    finally:
        _added.remove(kind)
