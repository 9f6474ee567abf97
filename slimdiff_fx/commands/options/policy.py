"""Which policy the command line's options name together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.errors import UsageError
from slimdiff_fx.commands.options.choices import Align, Compensate, Method, Normalize
from slimdiff_fx.commands.options.plan import Amount, How

if TYPE_CHECKING:
    from passes.plan.policies import Policy
    from slimdiff_fx.latency.budget import KeepLatency


def is_by_score(method: Method | None, criterion: list[str] | None, compensate: Compensate | None) -> bool:
    """Say whether units are chosen by a score."""
    return method is Method.threshold or bool(criterion) or compensate is not None


@dataclass(frozen=True)
class LatencyOptions:
    """What is timed, as the user gave it."""

    backend: str | None = None
    batch: int | None = None
    height: int | None = None
    width: int | None = None
    tokens: int | None = None
    threads: int | None = None
    cache: Path | None = None

    def given(self) -> dict[str, Any]:
        """Give those that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def policy_of(amount: Amount, how: How) -> Policy | KeepLatency | None:
    """Make the policy that the options name; see `choose_policy`."""
    return choose_policy(
        amount.tau,
        amount.keep_params,
        amount.keep_macs,
        amount.keep_latency,
        amount.max_error,
        how.normalize,
        amount.align,
        LatencyOptions(
            backend=amount.backend,
            batch=amount.latency_batch,
            height=amount.latency_height,
            width=amount.latency_width,
            tokens=amount.latency_tokens,
            threads=amount.latency_threads,
            cache=amount.latency_cache,
        ),
        uniform=amount.uniform,
        by_score=is_by_score(how.method, how.criterion, how.compensate),
    )


def method_of(how: How) -> dict[str, Any]:
    """Give how a plan is made, as commands take it."""
    return {
        "method": how.method and how.method.value,
        "criterion": how.criterion,
        "compensation": how.compensate and how.compensate.value,
    }


def choose_policy(
    tau: float | None,
    keep_params: float | None,
    keep_macs: float | None,
    keep_latency: float | None,
    max_error: float | None,
    normalize: Normalize,
    align: Align | None = None,
    latency: LatencyOptions = LatencyOptions(),
    *,
    uniform: bool = False,
    by_score: bool = False,
) -> Policy | KeepLatency | None:
    """Make the policy that the options name; None if they name none. With `by_score`, `align` alone is a threshold's.

    Raises:
        UsageError: more than one is given, or one is out of range.
    """
    given = {
        "--tau": tau,
        "--keep-params": keep_params,
        "--keep-macs": keep_macs,
        "--keep-latency": keep_latency,
        "--max-error": max_error,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are given together; give one of them")
    if keep_latency is None and latency.given():
        name = next(iter(latency.given()))
        option = "--backend" if name == "backend" else f"--latency-{name}"
        raise UsageError(f"{option} says what to time: give --keep-latency with it")
    multiple = None if align is None else int(align.value)
    if keep_latency is not None:
        from slimdiff_fx.latency.budget import KeepLatency

        return KeepLatency(keep_latency, **latency.given(), normalize=normalize.value, align=multiple, uniform=uniform)
    from passes.plan.policies import KeepMacs, KeepParams, MaxError, Threshold  # imports torch: not for --help

    if keep_params is not None:
        return KeepParams(keep_params, normalize.value, multiple, uniform)
    if keep_macs is not None:
        return KeepMacs(keep_macs, normalize.value, multiple, uniform)
    if uniform and (tau is not None or by_score):
        raise UsageError(
            "--uniform chooses sizes by the error that they are expected to cost, which a threshold doesn't know: "
            "leave --uniform out, or --tau, --criterion and --compensate"
        )
    if tau is not None:
        return Threshold(tau, normalize.value, multiple)
    if max_error is not None:
        return MaxError(max_error, multiple, uniform)
    if multiple is None and not uniform:
        return None
    return (
        Threshold(normalize=normalize.value, align=multiple) if by_score else MaxError(align=multiple, uniform=uniform)
    )
