"""The whole state of an instrumented program: what is given, is taken over, goes on and is forgotten."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.instrument import Instrumented, instrument
from passes.errors import UsageError
from tests.toy_block import samples, toy

WEIGHTS = [0.5 + bucket for bucket in range(10)]
CALLS = [(samples(size, size), torch.tensor(step)) for size, step in ((2, 10), (3, 950), (1, 480), (4, 300))]


def watch(weights: list[float] | None = WEIGHTS) -> Instrumented:
    return instrument(*toy(), moments=True, weights=weights)


def run(watched: Instrumented, calls: range) -> None:
    with torch.no_grad():
        for number in calls:
            watched.ledger.odd = number % 2 == 1
            watched(*CALLS[number])


def test_everything_is_taken_over_and_goes_on() -> None:
    whole, first, second = watch(), watch(), watch()
    run(whole, range(4))
    run(first, range(2))
    saved = first.statistics()
    assert saved.weights == tuple(WEIGHTS)
    assert saved.halves
    assert len(saved.probes) == 2
    run(second, range(4))  # is replaced
    second.load(saved)
    assert second.statistics().identical(saved)
    run(second, range(2, 4))
    found, expected = second.statistics(), whole.statistics()
    assert [int(leaves[1]) for leaves in found.probes] == [10, 950, 480, 300]
    for mine, others in ((found.moments, expected.moments), (found.halves, expected.halves)):
        for site, sums in mine.items():
            for name, values in sums.items():
                torch.testing.assert_close(values, others[site][name], rtol=1e-12, atol=1e-12)
    assert (found.samples, found.calls) == (10, 4)


def test_a_reset_forgets_everything() -> None:
    watched = watch()
    empty = watched.statistics()
    run(watched, range(3))
    watched.reset()
    assert watched.statistics().identical(empty)
    assert watched.statistics().probes == ()
    run(watched, range(1))
    again = watch()
    run(again, range(1))
    assert watched.statistics().identical(again.statistics())


@pytest.mark.parametrize("weights", [[1.0] * 9, [1.0] * 11, [0.0] * 10, [-1.0] + [1.0] * 9, [1.0] * 9 + [-0.1], []])
def test_weights_that_weigh_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="timestep weights"):
        watch(weights)


def test_a_bucket_may_weigh_nothing() -> None:
    watched = watch([0.0] * 9 + [2.0])
    run(watched, range(2))
    sums = next(iter(watched.statistics().moments.values()))
    assert float(sums["count"]) == 2 * 3 * 4  # weight, samples of the last bucket, tokens of each


def test_moments_are_not_taken_unless_asked_for() -> None:
    watched = instrument(*toy())
    run(watched, range(2))
    found = watched.statistics()
    assert (found.moments, found.halves, found.probes, found.weights) == ({}, {}, (), ())
