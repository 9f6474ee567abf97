"""Numbers that an argument may not be, refused in one line before any work."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from passes.errors import UsageError

# The largest 64-bit number: torch's generators and sizes take no more.
LARGEST = 2**63 - 1


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no count; None was not given.

    Raises:
        UsageError: it is no whole number, below `least`, or beyond 64 bits.
    """
    if value is None:
        return
    _check_whole(name, value)
    if value < least:
        raise UsageError(f"`{name}` is {value}; give at least {least}")


def check_seed(name: str, value: Any) -> None:
    """Refuse what no generator takes.

    Raises:
        UsageError: it is no whole number, or beyond 64 bits.
    """
    _check_whole(name, value)


def check_number(name: str, value: Any, least: float = 0.0) -> None:
    """Refuse what is no number to work with; None was not given.

    Raises:
        UsageError: it is no number, NaN, infinite, or below `least`.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        raise UsageError(f"`{name}` is {value}; give a finite number, at least {least:g}")


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"`{name}` is {value!r}; give a whole number")
    if not -LARGEST - 1 <= int(value) <= LARGEST:
        raise UsageError(f"`{name}` doesn't fit into 64 bits; give at most {LARGEST}")
