"""Statistics as tensors: which names they have, what is nothing yet, and what no calibration can have written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from passes.calibrate.statistics import Statistics, merge
from passes.errors import CheckpointError


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


STATISTICS = Statistics(
    {"b.ff": {"abs": f64([1, 2], [3, 4]), "count": f64(1, 2)}, "a.attn": {"l2": f64([5], [6]), "count": f64(3, 0)}},
    samples=7,
    calls=3,
    timesteps=50.0,
    fingerprint={"structure": "x"},
    moments={"b.ff": {"first": f64(1, 2)}},
    probes=((torch.ones(2), torch.tensor(3)), (torch.zeros(1),)),
    weights=(1.0, 0.5),
    halves={"a.attn": {"first": f64(4)}},
)


def changed_header(**changes: Any) -> dict[str, Tensor]:
    tensors = STATISTICS.to_tensors()
    header = {**json.loads(bytes(tensors["header"].tolist()).decode()), **changes}
    return {**tensors, "header": torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8)}


def test_the_names_in_a_file() -> None:
    assert set(STATISTICS.to_tensors()) == {
        "header",
        "b.ff/abs",
        "b.ff/count",
        "a.attn/l2",
        "a.attn/count",
        "moments/b.ff/first",
        "halves/a.attn/first",
        "probes/0000/00",
        "probes/0000/01",
        "probes/0001/00",
    }
    back = Statistics.from_tensors(STATISTICS.to_tensors())
    assert back.identical(STATISTICS)
    assert list(back.sites) == ["a.attn", "b.ff"]
    assert [[leaf.tolist() for leaf in probe] for probe in back.probes] == [[[1, 1], 3], [[0]]]
    assert (back.samples, back.calls, back.timesteps, back.weights) == (7, 3, 50.0, (1.0, 0.5))


@pytest.mark.parametrize("changes", [{"calls": 0}, {"samples": 0}, {"calls": 0, "samples": 0}, {"weights": []}])
def test_what_has_seen_nothing_yet_can_be_read(changes: dict[str, Any]) -> None:
    back = Statistics.from_tensors(changed_header(**changes))
    assert {name: changes.get(name, getattr(STATISTICS, name)) for name in ("calls", "samples")} == {
        "calls": back.calls,
        "samples": back.samples,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"calls": -1},
        {"samples": -1},
        {"timesteps": 0},
        {"timesteps": -1},
        {"timesteps": float("nan")},
        {"format": 1},
        {"samples": "many"},
        {"fingerprint": 3},
        {"weights": None},
    ],
)
def test_headers_that_no_calibration_writes(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        Statistics.from_tensors(changed_header(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"b.ff/count": None},
        {"b.ff/abs": None},
        {"b.ff/abs": f64([1, 2])},
        {"b.ff/abs": f64([1, 2], [3, 4]).float()},
        {"b.ff/count": f64(1, float("nan"))},
        {"b.ff/abs": f64([1, 2], [3, float("inf")])},
        {"b.ff/count": f64(1, 2, 3), "b.ff/abs": f64([1], [2], [3])},
        {"moments/b.ff/first": f64(1, float("nan"))},
        {"moments/b.ff/first": torch.ones(2)},
        {"header": None},
    ],
)
def test_tensors_that_no_calibration_writes(changes: dict[str, Tensor | None]) -> None:
    tensors = {name: value for name, value in (STATISTICS.to_tensors() | changes).items() if value is not None}
    with pytest.raises(CheckpointError):
        Statistics.from_tensors(tensors)


def test_the_light_part_has_everything_but_what_planning_needs() -> None:
    light = STATISTICS.light()
    assert (light.moments, light.probes, light.halves) == ({}, (), {})
    assert light.sites is STATISTICS.sites
    assert (light.samples, light.calls, light.weights) == (7, 3, (1.0, 0.5))


def test_three_add_up_in_every_part() -> None:
    other = replace(
        STATISTICS,
        sites={name: {key: 10 * value for key, value in sums.items()} for name, sums in STATISTICS.sites.items()},
        samples=1,
        calls=2,
        moments={"b.ff": {"first": f64(10, 20)}},
        halves={"a.attn": {"first": f64(40)}},
        probes=((torch.full((1,), 9.0),),),
    )
    found = merge(STATISTICS, other, other)
    assert found.sites["b.ff"]["abs"].tolist() == [[21, 42], [63, 84]]
    assert found.sites["a.attn"]["count"].tolist() == [63, 0]
    assert found.moments["b.ff"]["first"].tolist() == [21, 42]
    assert found.halves["a.attn"]["first"].tolist() == [84]
    assert (found.samples, found.calls) == (9, 7)
    assert len(found.probes) == 4
    # None of them has grown.
    assert STATISTICS.moments["b.ff"]["first"].tolist() == [1, 2]


def test_equal_is_to_the_last_bit_and_in_every_part() -> None:
    assert STATISTICS.identical(replace(STATISTICS))
    for changes in (
        {"samples": 8},
        {"weights": (1.0, 0.25)},
        {"probes": STATISTICS.probes[:1]},
        {"moments": {"b.ff": {"first": f64(1, 2 + 1e-15)}}},
        {"halves": {}},
    ):
        assert not STATISTICS.identical(replace(STATISTICS, **changes))
