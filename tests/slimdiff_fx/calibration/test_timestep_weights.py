"""Weights of timesteps by name and by number."""

from __future__ import annotations

import pytest

from passes.calibrate.instrument import BUCKETS
from passes.errors import UsageError
from slimdiff_fx.calibration.timestep_weights import WEIGHTS, bucket_weights


def test_names() -> None:
    assert bucket_weights("uniform") is None
    noise, detail = bucket_weights("noise"), bucket_weights("detail")
    assert noise is not None
    assert detail is not None
    assert list(noise) == sorted(noise)
    assert list(detail) == list(reversed(noise))
    for weigh in WEIGHTS.values():
        assert sum(weigh(bucket, BUCKETS) for bucket in range(BUCKETS)) == pytest.approx(BUCKETS)


def test_numbers() -> None:
    assert bucket_weights([1] * BUCKETS) == (1.0,) * BUCKETS


@pytest.mark.parametrize("weights", ["early", [1.0], [0.0] * BUCKETS, [-1.0] + [1.0] * (BUCKETS - 1)])
def test_others_are_refused(weights: str | list[float]) -> None:
    with pytest.raises(UsageError, match="timestep weights"):
        bucket_weights(weights)


def test_noise_weighs_more_the_later_the_timestep() -> None:
    """Buckets begin with the least noise; the weight of each is its middle's share of all timesteps, twice."""
    assert bucket_weights("noise") == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9])
    assert bucket_weights("detail") == pytest.approx([1.9, 1.7, 1.5, 1.3, 1.1, 0.9, 0.7, 0.5, 0.3, 0.1])
    given = [3.0, 0, 1, 2, 0.5, 7, 1, 1, 1, 9]
    assert bucket_weights(given) == tuple(given)
