"""Narrower heads: exact at full width, best by the singular values, never worse by any step that refines them."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.moments import Covariance
from passes.solve.known_moments import raise_unknown
from passes.solve.projections import block_diagonal, narrow_values, separate_width_errors, value_maps, width_errors
from tests.covariances import random_covariance, random_weight

HEADS, WIDTH = 3, 6


def test_full_width_changes_nothing() -> None:
    inputs, weight = random_covariance(HEADS * WIDTH, 0), random_weight(7, HEADS * WIDTH, 0)
    maps, found = narrow_values(weight, inputs, value_maps(weight, inputs, HEADS), WIDTH)
    torch.testing.assert_close(found.weight @ block_diagonal(maps), weight)
    assert found.error < 1e-9


def test_errors_by_width_are_those_of_the_refit() -> None:
    inputs, weight = random_covariance(HEADS * WIDTH, 1), random_weight(7, HEADS * WIDTH, 1)
    maps = value_maps(weight, inputs, HEADS)
    curve = width_errors(weight, inputs, maps)
    assert curve == sorted(curve, reverse=True)
    for width in range(1, WIDTH):
        found = narrow_values(weight, inputs, maps, width, rounds=0)[1]
        assert found.error == pytest.approx(curve[width - 1], rel=0.05, abs=1e-9)


def test_separate_heads_lose_the_tails_of_their_eigenvalues() -> None:
    inputs, weight = random_covariance(HEADS * WIDTH, 2), random_weight(7, HEADS * WIDTH, 2)
    diagonal = Covariance(
        torch.zeros(HEADS * WIDTH, dtype=torch.float64),
        block_diagonal(torch.stack([inputs.matrix[at : at + WIDTH, at : at + WIDTH] for at in (0, WIDTH, 2 * WIDTH)])),
        inputs.count,
    )
    maps = value_maps(weight, diagonal, HEADS)
    curve = separate_width_errors(weight, diagonal, maps)
    for width in range(1, WIDTH + 1):
        found = narrow_values(weight, diagonal, maps, width, joint=False)[1]
        assert found.error == pytest.approx(curve[width - 1], abs=1e-8)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_refining_in_turn_never_raises_the_error(width: int) -> None:
    for seed in range(10):
        inputs, weight = random_covariance(HEADS * WIDTH, seed), random_weight(7, HEADS * WIDTH, seed)
        maps = value_maps(weight, inputs, HEADS)
        errors = [narrow_values(weight, inputs, maps, width, rounds=rounds)[1].error for rounds in range(4)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] <= narrow_values(weight, inputs, maps, width, joint=False)[1].error


def test_an_orthogonal_rotation_of_a_head_leaves_the_curve() -> None:
    inputs, weight = random_covariance(HEADS * WIDTH, 3), random_weight(7, HEADS * WIDTH, 3)
    turn = block_diagonal(torch.linalg.qr(random_weight(HEADS * WIDTH, WIDTH, 4).reshape(HEADS, WIDTH, WIDTH)).Q)
    turned = Covariance(turn @ inputs.mean, turn @ inputs.matrix @ turn.T, inputs.count)
    other = weight @ turn.T
    plain = width_errors(weight, inputs, value_maps(weight, inputs, HEADS))
    assert width_errors(other, turned, value_maps(other, turned, HEADS)) == pytest.approx(plain, rel=1e-3)


def test_a_head_of_low_rank_is_narrowed_for_free() -> None:
    basis = block_diagonal(random_weight(HEADS * WIDTH, 2, 5).reshape(HEADS, WIDTH, 2))
    inner = random_covariance(HEADS * 2, 5).matrix
    inputs = Covariance(torch.zeros(HEADS * WIDTH, dtype=torch.float64), basis @ inner @ basis.T, 100_000)
    weight = random_weight(7, HEADS * WIDTH, 5)
    curve = width_errors(weight, inputs, value_maps(weight, inputs, HEADS))
    assert curve[1] < 1e-3 * curve[0]


@pytest.mark.parametrize("width", [1, 3, 5])
def test_sums_in_float32_of_a_large_mean_are_solved_for_all_the_same(width: int) -> None:
    """The mean's square is 10⁴ times the variance: what is left of its rounding is far from positive semidefinite."""
    draw = torch.Generator().manual_seed(0)
    weight, size = random_weight(7, HEADS * WIDTH, 0), HEADS * WIDTH
    basis = torch.randn(4, size, generator=draw, dtype=torch.float64)
    exact, mean = basis.T @ basis, torch.full((size,), 200.0, dtype=torch.float64)
    off = torch.randn(size, size, generator=draw, dtype=torch.float64) * 200**2 * 2**-24
    inputs = Covariance(mean, exact + (off + off.T) / 2, 2000)
    assert float(torch.linalg.eigvalsh(inputs.matrix)[0]) < -1e-3
    known = raise_unknown(inputs, HEADS)
    maps = value_maps(weight, known, HEADS)
    chosen, best = narrow_values(weight, known, maps, width)
    assert best.error <= width_errors(weight, known, maps)[width - 1]
    lost = weight - best.weight @ block_diagonal(chosen)
    energy = float(torch.trace(weight @ exact @ weight.T))
    assert float(torch.trace(lost @ exact @ lost.T)) <= best.error + 1e-3 * energy
