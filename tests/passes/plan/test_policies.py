"""What a policy may be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from passes.errors import UsageError
from passes.plan.costs import CostTable
from passes.plan.policies import Keep, KeepMacs, KeepParams, MaxError, Threshold


@pytest.mark.parametrize("error", [0.0, -0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_errors_out_of_range(error: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        MaxError(error)


def test_errors_in_range() -> None:
    assert MaxError(1e-9).error == 1e-9
    assert MaxError(0.999).error == 0.999
    assert 0 < MaxError().error < 1
    assert MaxError().align is None


@pytest.mark.parametrize("align", [0, -8, True, 2.5])
@pytest.mark.parametrize(
    "policy", [Threshold, MaxError, lambda *a, **k: KeepParams(0.9, **k), lambda **k: KeepMacs(0.9, **k)]
)
def test_multiples_that_are_none(policy: Any, align: Any) -> None:
    with pytest.raises(UsageError):
        policy(align=align)


@pytest.mark.parametrize("policy", [KeepParams, KeepMacs])
def test_fractions_at_the_ends(policy: type[KeepParams]) -> None:
    assert policy(1).fraction == 1
    assert policy(1e-6).fraction == 1e-6
    with pytest.raises(UsageError, match="'mean'"):
        policy(0.5, "mean")  # type: ignore[arg-type]
    assert policy(0.5, "minmax", 8).align == 8


def test_thresholds_at_the_ends() -> None:
    assert (Threshold(0).tau, Threshold(1).tau) == (0, 1)
    assert Threshold().tau == 0.05
    assert Threshold(0.5, "minmax").normalize == "minmax"


LATENCY = CostTable("latency", "nanoseconds", 100, {})


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_shares_of_a_table_out_of_range(fraction: float) -> None:
    with pytest.raises(UsageError, match="`KeepLatency` is"):
        Keep(fraction, LATENCY)


def test_shares_of_a_table_are_checked_like_others() -> None:
    assert Keep(1.0, LATENCY).costs is LATENCY
    with pytest.raises(UsageError, match="'mean'"):
        Keep(0.5, LATENCY, "mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Keep(0.5, LATENCY, align=0)


def test_what_is_counted_is_known_by_name() -> None:
    assert (Keep(0.5, "params").counts, KeepMacs(0.5).counts, Keep(0.5, LATENCY).counts) == (
        "params",
        "macs",
        "latency",
    )
    assert Keep(0.5, LATENCY).table is LATENCY
    with pytest.raises(UsageError, match="unknown costs 'watts'; there are params, macs"):
        Keep(0.5, "watts")
    with pytest.raises(UsageError, match="give a table"):
        _ = Keep(0.5, "params").table
