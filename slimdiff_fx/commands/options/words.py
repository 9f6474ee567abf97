"""Messages name arguments, as Python has them; the command line says the same of its options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from inspect import signature

from slimdiff_fx.commands.options.plan import AMOUNTS, KEEP, option_name

# Arguments and classes that are options of another name. The others have their own: `observe_steps` is --observe-steps.
_OTHERWISE = {
    **{f"Keep{name.removeprefix(KEEP).capitalize()}": option_name(name) for name in AMOUNTS if name.startswith(KEEP)},
    "MaxError": "--max-error",
    "Threshold": "--tau",
    "compensation": "--compensate",
    "cache": "--latency-cache",
    **{f"KeepLatency.{size}": f"--latency-{size}" for size in ("batch", "height", "width", "tokens", "threads")},
}
# By the names that messages have for them.
_OPTIONS: dict[str, str] = {}
_ARGUMENT = re.compile(r"`(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[a-z_]+)?)(?:=(?P<value>[^`]+))?`")


def in_options(message: str) -> str:
    r"""Say in options what a message says in arguments.

    Example:
        >>> in_options("`observe_steps` is 0; give at least 1, or `method=\"threshold\"`, or `overwrite=True`")
        '--observe-steps is 0; give at least 1, or --method threshold, or --overwrite'
    """
    return _ARGUMENT.sub(_option, message)


def _option(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    option = _OPTIONS.get(name)
    if option is None:
        return found.group()  # something else that is quoted
    if value is None or value == "True":
        return option
    return f"{option} {value.strip(chr(34))}"


def speak_for(commands: Iterable[Callable[..., object]]) -> None:
    """Take the arguments of these functions as options; the command line gives its own, once."""
    for command in commands:
        _OPTIONS.update({name: option_name(name) for name in signature(command).parameters})
    _OPTIONS.update(_OTHERWISE)
