"""Options that name a policy together."""

from dataclasses import dataclass, replace

import pytest

import passes.plan.policies
from passes.errors import UsageError
from passes.plan.costs import COUNTED, params_table
from passes.plan.policies import Keep, MaxError, Threshold
from slimdiff_fx.commands.options import policy
from slimdiff_fx.commands.options.choices import Align, Method
from slimdiff_fx.commands.options.plan import Amount, How
from slimdiff_fx.commands.options.policy import policy_of
from slimdiff_fx.latency.budget import KeepLatency

HOW = How()


def test_each_option_is_its_policy() -> None:
    wanted = {
        "keep_params": Keep(0.9, "params", uniform=True),
        "keep_macs": Keep(0.9, "macs", uniform=True),
        "keep_latency": KeepLatency(0.9, uniform=True),
        "max_error": MaxError(0.9, uniform=True),
    }
    for name, expected in wanted.items():
        assert policy_of(Amount(**{name: 0.9}, uniform=True), HOW) == expected
    assert policy_of(Amount(tau=0.2, align=Align.eight), HOW) == Threshold(0.2, align=8)
    assert policy_of(Amount(keep_latency=0.9, backend="eager", latency_batch=3), HOW) == KeepLatency(
        0.9, backend="eager", batch=3
    )
    assert policy_of(Amount(), HOW) is None


def test_uniform_is_for_what_predicts_errors() -> None:
    assert policy_of(Amount(uniform=True), HOW) == MaxError(uniform=True)
    for tau, how in ((0.1, HOW), (None, replace(HOW, method=Method.threshold))):
        with pytest.raises(UsageError, match="--uniform"):
            policy_of(Amount(tau=tau, uniform=True), how)


def test_align_alone_takes_the_method_s_own_amount() -> None:
    assert policy_of(Amount(align=Align.sixteen), HOW) == MaxError(align=16)
    assert policy_of(Amount(align=Align.sixteen), replace(HOW, criterion=["l2"])) == Threshold(align=16)


def test_what_says_the_same_twice_or_times_nothing() -> None:
    with pytest.raises(UsageError, match="--tau and --keep-latency are given together"):
        policy_of(Amount(tau=0.1, keep_latency=0.9), HOW)
    with pytest.raises(UsageError, match="--latency-batch says what to time"):
        policy_of(Amount(latency_batch=2), HOW)


def test_a_budget_is_a_table_s_entry_and_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class More(Amount):
        keep_bytes: float | None = None

    monkeypatch.setattr(passes.plan.policies, "COUNTED", {**COUNTED, "bytes": params_table})
    monkeypatch.setattr(policy, "AMOUNTS", [*policy.AMOUNTS, "keep_bytes"])
    assert policy_of(More(keep_bytes=0.8), HOW) == Keep(0.8, "bytes")
    with pytest.raises(UsageError, match="`KeepBytes` is 8"):
        policy_of(More(keep_bytes=8), HOW)
