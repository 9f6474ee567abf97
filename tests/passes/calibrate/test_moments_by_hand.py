"""The small rules of second moments: shapes, bytes, which sites have halves, which tokens are taken, blocks, means."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import passes.calibrate.moments
from passes.calibrate.moments import (
    COUNT,
    FIRST,
    KEY,
    KEY_COUNT,
    KEY_FIRST,
    QUERY,
    SECOND,
    covariance,
    fold,
    halved_sites,
    moment_bytes,
    moment_shapes,
    sums_of,
)
from passes.calibrate.token_sampling import sampled_tokens
from passes.errors import CalibrationError, UsageError
from tests.sites import linear_site

HEADS = linear_site("heads", "attention", 2, 3, ("q", "k", "v"), "out")
NEURONS = linear_site("neurons", "feed_forward", 5, 1, ("up",), "down")


def test_shapes_and_bytes() -> None:
    assert moment_shapes(NEURONS) == {COUNT: (), FIRST: (5,), SECOND: (5, 5)}
    assert moment_shapes(HEADS) == {
        COUNT: (),
        FIRST: (6,),
        SECOND: (6, 6),
        QUERY: (2, 3, 3),
        KEY_COUNT: (),
        KEY_FIRST: (2, 3),
        KEY: (2, 3, 3),
    }
    # These names stand in files.
    assert list(moment_shapes(HEADS)) == ["count", "first", "second", "query", "key_count", "key_first", "key"]
    assert moment_bytes((NEURONS,)) == 8 * (1 + 5 + 25)
    assert moment_bytes((NEURONS, HEADS)) == 8 * (1 + 5 + 25) + 8 * (1 + 6 + 36 + 18 + 1 + 6 + 18)
    assert moment_bytes(()) == 0


def test_small_attentions_have_halves_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"large": 8, "small": 2, "middle": 4}
    sites = {name: moment_shapes(replace(HEADS, name=name, units=units)) for name, units in sizes.items()}
    needed = {name: moment_bytes((replace(HEADS, units=units),)) for name, units in sizes.items()}
    every = {"neurons": moment_shapes(NEURONS), **sites}
    for limit, chosen in (
        (sum(needed.values()), ["small", "middle", "large"]),
        (sum(needed.values()) - 1, ["small", "middle"]),
        (needed["small"] + needed["middle"], ["small", "middle"]),
        (needed["small"], ["small"]),
        (needed["small"] - 1, []),
    ):
        monkeypatch.setattr(passes.calibrate.moments, "HALVES_LIMIT", limit)
        assert halved_sites(every) == chosen


@pytest.mark.parametrize(
    ("tokens", "count"), [(1, 1), (3, 3), (4, 4), (64, 4), (79, 4), (80, 5), (127, 7), (128, 8), (4096, 8)]
)
def test_one_token_of_each_stretch(tokens: int, count: int) -> None:
    for timestep in (0.0, 1.0, 7.0, 500.0, 999.0):
        chosen = sampled_tokens(tokens, timestep)
        assert len(chosen) == count
        for stretch, position in enumerate(chosen):
            assert stretch * tokens // count <= position < (stretch + 1) * tokens // count


def test_all_places_of_a_stretch_are_taken_in_turn() -> None:
    taken: list[set[int]] = [set() for _ in range(4)]
    for timestep in range(64):
        for stretch, position in enumerate(sampled_tokens(64, float(timestep))):
            taken[stretch].add(position - 16 * stretch)
    # The golden ratio spreads 64 timesteps over 16 places with none left out.
    assert taken == [set(range(16))] * 4
    # Stretches aren't in step: otherwise one column of a picture would be seen at a time.
    assert any(len({position % 16 for position in sampled_tokens(64, float(step))}) == 4 for step in range(64))


@pytest.mark.parametrize("block", [1, 3, 7, 8])
def test_rows_are_added_a_block_at_a_time(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows = {
        FIRST: draw(7, 6),
        COUNT: draw(7).abs(),
        QUERY: draw(7, 2, 3),
        KEY: draw(10, 2, 3),
        KEY_COUNT: draw(10).abs(),
    }
    sums = {name: torch.full(shape, 2.0, dtype=torch.float64) for name, shape in moment_shapes(HEADS).items()}
    monkeypatch.setattr(passes.calibrate.moments, "BLOCK", block)
    fold(sums, rows)
    weights, keys = rows[COUNT], rows[KEY_COUNT]
    expected = {
        COUNT: weights.sum(),
        FIRST: torch.einsum("n,ni->i", weights, rows[FIRST]),
        SECOND: torch.einsum("n,ni,nj->ij", weights, rows[FIRST], rows[FIRST]),
        QUERY: torch.einsum("n,nhi,nhj->hij", weights, rows[QUERY], rows[QUERY]),
        KEY_COUNT: keys.sum(),
        KEY_FIRST: torch.einsum("n,nhi->hi", keys, rows[KEY]),
        KEY: torch.einsum("n,nhi,nhj->hij", keys, rows[KEY], rows[KEY]),
    }
    for name, values in expected.items():
        torch.testing.assert_close(sums[name], values + 2, rtol=1e-12, atol=1e-12)


def test_products_are_taken_in_the_rows_own_precision_and_added_in_float64() -> None:
    rows = {FIRST: torch.full((3, 5), 1 / 3, dtype=torch.float32), COUNT: torch.ones(3, dtype=torch.float64)}
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in moment_shapes(NEURONS).items()}
    sums[SECOND].fill_(2.0**30)
    fold(sums, rows)
    # In float32, 2³⁰ would swallow it.
    added = sums[SECOND] - 2.0**30
    torch.testing.assert_close(added, torch.full((5, 5), 1 / 3, dtype=torch.float64), rtol=1e-5, atol=0)
    assert all(values.dtype == torch.float64 for values in sums.values())


def test_the_covariance_with_and_without_its_mean() -> None:
    sums = {
        COUNT: torch.tensor(4.0, dtype=torch.float64),
        FIRST: torch.tensor([4.0, 8, 0, 0, -4], dtype=torch.float64),
        SECOND: torch.eye(5, dtype=torch.float64) * 20,
    }
    centred, whole = covariance(NEURONS, sums), covariance(NEURONS, sums, centred=False)
    assert centred.mean.tolist() == [1, 2, 0, 0, -1]
    assert centred.matrix.tolist() == [
        [4, -2, 0, 0, 1],
        [-2, 1, 0, 0, 2],
        [0, 0, 5, 0, 0],
        [0, 0, 0, 5, 0],
        [1, 2, 0, 0, 4],
    ]
    assert whole.mean.tolist() == [0] * 5
    assert whole.matrix.tolist() == (5 * torch.eye(5)).tolist()
    assert (centred.count, whole.count) == (4, 4)


@pytest.mark.parametrize("count", [0.0, -1.0, float("nan")])
def test_a_site_that_saw_nothing_is_refused(count: float) -> None:
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in moment_shapes(NEURONS).items()}
    with pytest.raises(CalibrationError, match="'neurons' saw no token"):
        covariance(NEURONS, {**sums, COUNT: torch.tensor(count, dtype=torch.float64)})


def test_sums_that_were_not_taken_are_asked_for() -> None:
    sums = {COUNT: torch.zeros(())}
    assert sums_of(NEURONS, {"neurons": sums}) is sums
    with pytest.raises(UsageError, match="'neurons' has no second moments"):
        sums_of(NEURONS, {"heads": sums})
