"""Commands that take their options in groups: dataclasses, whose fields the command line shows one by one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, get_type_hints


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with the fields of its dataclass arguments in their place, as typer takes them.

    Args:
        command: its arguments are annotated. A field is an option as an argument is, annotated in the same way.

    Raises:
        TypeError: two groups, or a group and an argument, have an option of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(annotation=kind))
            continue
        annotations = get_type_hints(kind, include_extras=True)
        groups[name] = kind, [each.name for each in fields(kind)]
        parameters += [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=annotations[each.name],
            )
            for each in fields(kind)
        ]
    names = [each.name for each in parameters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TypeError(f"{command.__name__} takes {', '.join(twice)} twice")

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> None:
        for name, (kind, own) in groups.items():
            given[name] = kind(**{each: given.pop(each) for each in own if each in given})
        command(*args, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def as_values(*groups: Any) -> dict[str, Any]:
    """Join groups into one dictionary of plain values: of a choice, its name."""
    return {name: _value(value) for group in groups for name, value in vars(group).items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(each) for each in value]
    return value.value if isinstance(value, Enum) else value
