"""Refit: exact where it can be, never worse than leaving the weights, with λ by its rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.calibrate.moments import Covariance
from passes.errors import CalibrationError
from passes.solve.least_squares import LEAST_RIDGE, refit, ridge, ridge_factor
from tests.covariances import error_of, random_covariance, random_weight


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(2, 24),
    out=st.integers(1, 8),
    rank=st.integers(1, 24),
    count=st.sampled_from([3.0, 100.0, 1e6]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
def test_refit_never_raises_the_error(
    width: int, out: int, rank: int, count: float, scale: float, seed: int, data: st.DataObject
) -> None:
    drawn = random_covariance(width, seed, min(rank, width))
    inputs = Covariance(drawn.mean, drawn.matrix * scale, count)
    weight = random_weight(out, width, seed)
    kept = torch.tensor(sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=1))))
    before = error_of(weight, inputs, kept, weight[:, kept])
    found = refit(weight, inputs, kept)
    after = error_of(weight, inputs, kept, found.weight)
    assert after <= before * (1 + 1e-9) + 1e-12 * scale
    assert found.error == pytest.approx(after, rel=1e-6, abs=1e-9 * scale)


def test_refit_is_the_least_squares_solution_up_to_the_ridge() -> None:
    inputs, weight = random_covariance(12, 0), random_weight(5, 12, 0)
    kept = torch.tensor([0, 2, 3, 7, 8])
    among, onto = inputs.matrix[kept][:, kept], inputs.matrix[:, kept]
    best = torch.linalg.solve(among, onto.T @ weight.T).T
    least = error_of(weight, inputs, kept, best)
    assert least <= refit(weight, inputs, kept).error <= least * 1.01


def test_the_bias_takes_over_the_mean() -> None:
    inputs, weight = random_covariance(6, 1), random_weight(3, 6, 1)
    kept = torch.tensor([1, 4])
    found = refit(weight, inputs, kept)
    torch.testing.assert_close(weight @ inputs.mean, found.weight @ inputs.mean[kept] + found.shift)


def test_what_others_determine_is_made_up_for() -> None:
    inputs, weight = random_covariance(10, 2, rank=4), random_weight(3, 10, 2)
    energy = error_of(weight, inputs, torch.tensor([0]), torch.zeros(3, 1, dtype=torch.float64))
    left = refit(weight, inputs, torch.arange(4)).error
    plain = error_of(weight, inputs, torch.arange(4), weight[:, :4])
    assert left < 1e-3 * energy < plain


def test_a_map_of_all_inputs_is_as_good_as_the_inputs() -> None:
    inputs, weight = random_covariance(8, 3), random_weight(4, 8, 3)
    turn = torch.linalg.qr(random_weight(8, 8, 4)).Q
    found = refit(weight, inputs, turn, start=weight @ turn.T)
    torch.testing.assert_close(found.weight @ turn, weight)
    assert found.error < 1e-12


def test_ridge_grows_where_tokens_are_few() -> None:
    matrix = 3 * torch.eye(50, dtype=torch.float64)
    assert ridge(matrix, 1e9) == pytest.approx(3 * LEAST_RIDGE)
    assert ridge(matrix, 100) == pytest.approx(3 * 1e-2 * 50 / 100)
    assert ridge(torch.zeros(4, 4), 10) > 0


def test_what_rounding_made_indefinite_is_factorized_all_the_same() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, -3e-4], dtype=torch.float64))
    factor = ridge_factor(matrix, 1e9)
    assert bool(torch.isfinite(factor).all())


def test_no_covariance_is_refused() -> None:
    for matrix in (torch.full((3, 3), torch.nan), torch.diag(torch.tensor([1.0, -1.0, 1.0]))):
        with pytest.raises(CalibrationError, match="calibrate again"):
            ridge_factor(matrix.double(), 1e9)
