"""Statistics: means, merging, flat tensors, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from passes.errors import CalibrationError, CheckpointError, UsageError
from passes.statistics import Statistics, merge

FINGERPRINT = {"structure": "abc", "weights": {"a": [0.1, -2.5e-7]}}


def make(seed: int = 0, **changes: object) -> Statistics:
    generator = torch.Generator().manual_seed(seed)
    count = torch.tensor([4.0, 0.0, 6.0], dtype=torch.float64)
    sums = torch.rand(3, 5, dtype=torch.float64, generator=generator) * count.unsqueeze(1)
    statistics = Statistics({"a.b": {"abs": sums, "count": count}}, 7, 2, 1000.0, FINGERPRINT)
    return replace(statistics, **changes)  # type: ignore[arg-type]


def test_means() -> None:
    statistics = make()
    sums = statistics.sites["a.b"]["abs"]
    assert statistics.buckets == 3
    torch.testing.assert_close(statistics.mean("a.b", "abs"), sums.sum(0) / 10, rtol=1e-15, atol=0)
    by_bucket = statistics.mean_by_bucket("a.b", "abs")
    torch.testing.assert_close(by_bucket[2], sums[2] / 6, rtol=1e-15, atol=0)
    assert all(math.isnan(value) for value in by_bucket[1].tolist())


def test_means_of_what_was_not_measured_are_refused() -> None:
    with pytest.raises(UsageError, match="'other'"):
        make().mean("other", "abs")
    for statistic in ("l2", "count"):
        with pytest.raises(UsageError, match=rf"no statistic '{statistic}', only abs"):
            make().mean("a.b", statistic)
    empty = {"a.b": {"abs": torch.zeros(3, 5), "count": torch.zeros(3)}}
    with pytest.raises(CalibrationError, match=r"'a\.b' saw no token"):
        make(sites=empty).mean("a.b", "abs")


def test_merge_adds() -> None:
    one, other = make(0), make(1)
    both = merge(one, other)
    assert torch.equal(both.sites["a.b"]["abs"], one.sites["a.b"]["abs"] + other.sites["a.b"]["abs"])
    assert both.sites["a.b"]["count"].tolist() == [8, 0, 12]
    assert (both.samples, both.calls) == (14, 4)
    assert merge(one).identical(one)
    with pytest.raises(UsageError):
        merge()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": {"structure": "abd", "weights": {}}}, "another model"),
        ({"timesteps": 50.0}, "50 timesteps, not 1000"),
        ({"sites": {"c": {"abs": torch.zeros(3, 5), "count": torch.zeros(3)}}}, "other sites"),
        ({"sites": {"a.b": {"abs": torch.zeros(2, 5), "count": torch.zeros(2)}}}, "same observers"),
        ({"sites": {"a.b": {"square": torch.zeros(3, 5), "count": torch.zeros(3)}}}, "same observers"),
    ],
)
def test_merge_refuses_what_does_not_match(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        merge(make(), make(**changes))


def test_tensors_round_trip_to_the_last_bit() -> None:
    statistics = make()
    again = Statistics.from_tensors(statistics.to_tensors())
    assert again.identical(statistics)
    assert again.fingerprint == FINGERPRINT
    assert (again.samples, again.calls, again.timesteps) == (7, 2, 1000.0)
    assert not again.identical(make(1))
    assert not again.identical(make(samples=8))


def broken(key: str, value: Tensor | None) -> dict[str, Tensor]:
    tensors = make().to_tensors()
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    return tensors


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        broken("header", None),
        broken("header", torch.tensor([1, 2, 3], dtype=torch.uint8)),
        broken("header", torch.tensor(list(b'{"format": 99}'), dtype=torch.uint8)),
        broken("header", torch.tensor(list(b"[1]"), dtype=torch.uint8)),
        broken("a.b/count", None),
        broken("a.b/abs", None),
        broken("a.b/abs", torch.zeros(2, 5, dtype=torch.float64)),
        broken("a.b/abs", torch.zeros(3, 5)),
        broken("a.b/abs", torch.full((3, 5), float("nan"), dtype=torch.float64)),
        broken("a.b/count", torch.zeros((), dtype=torch.float64)),
    ],
    ids=range(11),
)
def test_tampered_tensors_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="calibrate again"):
        Statistics.from_tensors(tensors)
