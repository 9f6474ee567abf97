"""What an argument must be, said before it is used."""

from __future__ import annotations

from typing import Any

from passes.errors import UsageError


def check_kind(name: str, value: Any, kind: type | tuple[type, ...], give: str) -> None:
    """Refuse an argument of another class than a function works on.

    Args:
        name: of the argument.
        value: what was given.
        kind: its class, or one of several.
        give: what to give instead, as a person would type it.

    Raises:
        UsageError: says what it is, and what to give.
    """
    if not isinstance(value, kind):
        raise UsageError(f"`{name}` is {_named(value)}; give {give}")


def _named(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"of class {type(value).__name__}"
