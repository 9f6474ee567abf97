"""Messages name arguments, as Python has them; the command line says the same of its options."""

from __future__ import annotations

import re
from functools import cache
from inspect import signature

# Arguments and classes that are options of another name. The others have their own: `observe_steps` is --observe-steps.
_OTHERWISE = {
    "KeepParams": "--keep-params",
    "KeepMacs": "--keep-macs",
    "KeepLatency": "--keep-latency",
    "MaxError": "--max-error",
    "Threshold": "--tau",
    "compensation": "--compensate",
    "cache": "--latency-cache",
    **{f"KeepLatency.{size}": f"--latency-{size}" for size in ("batch", "height", "width", "tokens", "threads")},
}
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
    option = _options().get(name)
    if option is None:
        return found.group()  # something else that is quoted
    if value is None or value == "True":
        return option
    return f"{option} {value.strip(chr(34))}"


@cache
def _options() -> dict[str, str]:
    """Give options by the names that messages have for them: the command line's own, and those of another name."""
    from slimdiff_fx.cli import app

    commands = [command.callback for command in app.registered_commands if command.callback is not None]
    names = {name for command in commands for name in signature(command).parameters}
    return {name: f"--{name.replace('_', '-')}" for name in names} | _OTHERWISE
