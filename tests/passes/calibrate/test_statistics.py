"""Statistics: means, merging, flat tensors, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from passes.calibrate.statistics import Statistics, merge
from passes.errors import CalibrationError, CheckpointError, UsageError

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


def full(seed: int, **changes: object) -> Statistics:
    """Make statistics with moments, halves, probes and weights, of unequal counts."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    moments = {"a.b": {"count": drawn(), "first": drawn(5), "second": drawn(5, 5)}, "c": {"count": drawn()}}
    halves = {"c": {"count": drawn(), "key": drawn(2, 3)}}
    probes = tuple((drawn(2, 3), torch.tensor(10 * seed + number)) for number in range(2 + seed))
    statistics = make(seed, moments=moments, halves=halves, probes=probes, weights=(0.5, 2.0, 1.0))
    return replace(statistics, samples=7 + seed, calls=2 * seed + 1, **changes)  # type: ignore[arg-type]


def test_merge_adds_moments_and_halves_and_keeps_all_probes() -> None:
    parts = [full(seed) for seed in range(3)]
    before = [part.to_tensors() for part in parts]
    whole = merge(*parts)
    for name in ("moments", "halves"):
        merged = getattr(whole, name)
        assert merged.keys() == getattr(parts[0], name).keys()
        for site, sums in merged.items():
            for sum_name, values in sums.items():
                expected = sum(getattr(part, name)[site][sum_name] for part in parts)
                torch.testing.assert_close(values, expected, rtol=1e-15, atol=0)
    assert (whole.samples, whole.calls) == (7 + 8 + 9, 1 + 3 + 5)
    assert whole.weights == (0.5, 2.0, 1.0)
    assert [int(leaves[1]) for leaves in whole.probes] == [0, 1, 10, 11, 12, 20, 21, 22, 23]
    for part, tensors in zip(parts, before, strict=True):  # what was merged is left as it was
        assert all(torch.equal(value, tensors[name]) for name, value in part.to_tensors().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (2.0, 0.5, 1.0)}, "weigh timesteps in another way"),
        ({"moments": {}}, "only one of these statistics has second moments"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_merge_refuses_other_moments(changes: dict[str, object], message: str, order: int) -> None:
    with pytest.raises(CalibrationError, match=message):
        merge(*[full(0), full(1, **changes)][::order])


def test_the_third_of_several_is_looked_at_too() -> None:
    with pytest.raises(CalibrationError, match="another model"):
        merge(make(), make(1), make(fingerprint={"structure": "abd", "weights": {}}))


def test_everything_comes_back_from_tensors() -> None:
    statistics = full(1)
    again = Statistics.from_tensors(statistics.to_tensors())
    assert again.identical(statistics)
    assert again.moments.keys() == {"a.b", "c"}
    assert again.halves.keys() == {"c"}
    assert again.weights == (0.5, 2.0, 1.0)
    assert [int(leaves[1]) for leaves in again.probes] == [10, 11, 12]
    light = again.light()
    assert not light.moments
    assert not light.halves
    assert not light.probes
    assert light.sites is again.sites


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["moments/a.b/second", "moments/c/count", "halves/c/key"])
def test_moments_that_are_not_finite_are_not_read_back(bad: float, key: str) -> None:
    tensors = full(0).to_tensors()
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = bad
    with pytest.raises(CheckpointError, match="not finite: calibrate again"):
        Statistics.from_tensors(tensors)


@pytest.mark.parametrize("key", ["moments/a.b/second", "halves/c/key"])
def test_moments_of_another_type_are_not_read_back(key: str) -> None:
    tensors = full(0).to_tensors()
    tensors[key] = tensors[key].float()
    with pytest.raises(CheckpointError, match="float32"):
        Statistics.from_tensors(tensors)


@pytest.mark.parametrize(
    "changes", [{"samples": -1}, {"calls": -1}, {"timesteps": 0.0}, {"timesteps": math.nan}, {"timesteps": -5.0}]
)
def test_a_header_out_of_range_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="out of range"):
        Statistics.from_tensors(make(**changes).to_tensors())


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(CheckpointError, match="timestep weights are out of range"):
        Statistics.from_tensors(full(0, weights=(0.5, weight, 1.0)).to_tensors())
