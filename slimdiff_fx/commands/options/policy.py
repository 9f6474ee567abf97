"""Which policy the command line's options name together."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from passes.errors import UsageError
from slimdiff_fx.commands.options.choices import Compensate, Method
from slimdiff_fx.commands.options.plan import AMOUNTS, KEEP, Amount, How, option_name

if TYPE_CHECKING:
    from passes.plan.policies import Policy
    from slimdiff_fx.latency.budget import KeepLatency

_LATENCY = [each.name for each in fields(Amount) if each.name == "backend" or each.name.startswith("latency_")]


def is_by_score(method: Method | None, criterion: list[str] | None, compensate: Compensate | None) -> bool:
    """Say whether units are chosen by a score."""
    return method == "threshold" or bool(criterion) or compensate is not None


def method_of(how: How) -> dict[str, Any]:
    """Give how a plan is made, as commands take it."""
    return {
        "method": how.method and how.method.value,
        "criterion": how.criterion,
        "compensation": how.compensate and how.compensate.value,
    }


def policy_of(amount: Amount, how: How) -> Policy | KeepLatency | None:
    """Make the policy that the options name; None if they name none.

    `--align` alone is a threshold's where units are chosen by a score.

    Raises:
        UsageError: more than one is given, or one is out of range.
    """
    given: dict[str, Any] = {name: value for name in AMOUNTS if (value := getattr(amount, name)) is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(map(option_name, given))} are given together; give one of them")
    latency = {name: value for name in _LATENCY if (value := getattr(amount, name)) is not None}
    if amount.keep_latency is None and latency:
        raise UsageError(f"{option_name(next(iter(latency)))} says what to time: give --keep-latency with it")
    normalize: Any = how.normalize.value  # one of NORMALIZATIONS
    multiple = None if amount.align is None else int(amount.align.value)
    from passes.plan.policies import Keep, MaxError, Threshold  # imports torch: not for --help

    name = next(iter(given), "")
    if name.startswith(KEEP):
        if name != "keep_latency":
            return Keep(given[name], name.removeprefix(KEEP), normalize, multiple, amount.uniform)
        from slimdiff_fx.latency.budget import KeepLatency

        settings: dict[str, Any] = {each.removeprefix("latency_"): setting for each, setting in latency.items()}
        return KeepLatency(given[name], **settings, normalize=normalize, align=multiple, uniform=amount.uniform)
    by_score = is_by_score(how.method, how.criterion, how.compensate)
    if amount.uniform and (name == "tau" or by_score):
        raise UsageError(
            "--uniform chooses sizes by the error that they are expected to cost, which a threshold doesn't know: "
            "leave --uniform out, or --tau, --criterion and --compensate"
        )
    if name == "tau":
        return Threshold(given[name], normalize, multiple)
    if name == "max_error":
        return MaxError(given[name], multiple, amount.uniform)
    if multiple is None and not amount.uniform:
        return None
    if by_score:
        return Threshold(normalize=normalize, align=multiple)
    return MaxError(align=multiple, uniform=amount.uniform)
