"""Options that name a policy together."""

import pytest

from passes.errors import UsageError
from passes.plan.policies import KeepMacs, KeepParams, MaxError
from slimdiff_fx.commands.options.choices import Normalize
from slimdiff_fx.commands.options.policy import choose_policy
from slimdiff_fx.latency.budget import KeepLatency


def test_uniform_is_for_what_predicts_errors() -> None:
    wanted = {1: KeepParams(0.9, uniform=True), 2: KeepMacs(0.9, uniform=True), 3: KeepLatency(0.9, uniform=True)}
    for place, policy in {**wanted, 4: MaxError(0.9, uniform=True)}.items():
        given = [0.9 if at == place else None for at in range(5)]
        assert choose_policy(*given, Normalize.max, uniform=True) == policy
    assert choose_policy(*[None] * 5, Normalize.max, uniform=True) == MaxError(uniform=True)
    for tau, by_score in ((0.1, False), (None, True)):
        with pytest.raises(UsageError, match="--uniform"):
            choose_policy(tau, *[None] * 4, Normalize.max, uniform=True, by_score=by_score)
