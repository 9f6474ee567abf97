"""Narrower heads: exact at full width, best by the singular values, never worse by any step that refines them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.moments import KEY, KEY_COUNT, KEY_FIRST, QUERY, Covariance
from passes.projections import (
    UNKNOWN,
    block_diagonal,
    narrow_values,
    raise_unknown,
    score_loss,
    score_losses,
    score_maps,
    separate_width_errors,
    value_maps,
    width_errors,
)
from tests.covariances import random_covariance, random_weight

HEADS, WIDTH = 3, 6


def head_sums(seed: int, mean: float = 0.0) -> dict[str, Tensor]:
    """Draw second moments of queries and keys, 50 tokens of each."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, HEADS, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    query, key = (torch.randn(HEADS, 50, WIDTH, generator=generator, dtype=torch.float64) @ part for part in mix)
    key = key + mean
    count = torch.tensor(50.0, dtype=torch.float64)
    sums = {"count": count, QUERY: query.transpose(1, 2) @ query, KEY: key.transpose(1, 2) @ key}
    return sums | {KEY_COUNT: count, KEY_FIRST: key.sum(1)}


def score_error(sums: dict[str, Tensor], query: Tensor, key: Tensor) -> Tensor:
    """Compute E(qᵀk − (Q q)ᵀ(K k))² of each head, q and k independent."""
    lost = torch.eye(WIDTH, dtype=torch.float64) - query.transpose(1, 2) @ key
    queries, keys = sums[QUERY] / sums["count"], sums[KEY] / sums[KEY_COUNT]
    return torch.einsum("hab,hbc,hcd,hda->h", queries, lost, keys, lost.transpose(1, 2))


def test_all_channels_give_the_scores_back() -> None:
    maps = score_maps(head_sums(0), centred=False)
    identity = torch.eye(WIDTH, dtype=torch.float64).expand(HEADS, -1, -1)
    torch.testing.assert_close(maps.query.transpose(1, 2) @ maps.key, identity)


@pytest.mark.parametrize("width", range(1, WIDTH))
def test_no_form_of_the_rank_gives_scores_better(width: int) -> None:
    sums = head_sums(1)
    maps = score_maps(sums, centred=False)
    found = score_error(sums, maps.query[:, :width], maps.key[:, :width])
    queries, keys = sums[QUERY] / sums["count"], sums[KEY] / sums[KEY_COUNT]
    # singular values of C_q^½ C_k^½ are the roots of the eigenvalues of C_q C_k
    squares = torch.linalg.eigvals(queries @ keys).real.sort(1).values
    torch.testing.assert_close(found, squares[:, : WIDTH - width].sum(1))
    assert score_losses(sums, centred=False)[width - 1] == pytest.approx(float(found.sum() / squares.sum()))
    for seed in range(5):
        query, key = (torch.randn(HEADS, width, WIDTH, dtype=torch.float64) for _ in range(2))
        torch.manual_seed(seed)
        assert bool((score_error(sums, query, key) >= found).all())


def test_a_mean_of_the_keys_takes_no_channel() -> None:
    plain, moved = score_maps(head_sums(2)), score_maps(head_sums(2, mean=30.0))
    for one, other in zip((plain.query, plain.key), (moved.query, moved.key), strict=True):
        torch.testing.assert_close(one.abs(), other.abs(), rtol=1e-6, atol=1e-8)


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


def test_losses_of_scores_are_those_of_the_form() -> None:
    for seed in range(3):
        sums = head_sums(seed, mean=2.0)
        for centred in (False, True):
            maps, losses = score_maps(sums, centred=centred), score_losses(sums, centred=centred)
            for width in range(1, WIDTH):
                found = score_loss(sums, maps.query[:, :width], maps.key[:, :width], centred=centred)
                assert found == pytest.approx(losses[width - 1], rel=1e-6)
            assert losses[-1] == 0
            assert score_loss(sums, maps.query, maps.key, centred=centred) < 1e-20


def test_what_a_head_did_not_show_is_raised_and_nothing_else() -> None:
    drawn = random_covariance(HEADS * WIDTH, 6)
    matrix, mean = drawn.matrix.clone(), torch.zeros(HEADS * WIDTH, dtype=torch.float64)
    first, second, third = (slice(at, at + WIDTH) for at in (0, WIDTH, 2 * WIDTH))
    basis = torch.linalg.qr(random_weight(WIDTH, WIDTH, 7)).Q
    matrix[first], matrix[:, first] = 0, 0
    matrix[first, first] = basis @ torch.diag(torch.tensor([4.0, 2, 1, 1e-9, 0, -1e-8]).double()) @ basis.T
    matrix[third], matrix[:, third] = 0, 0
    mean[second] = 1e3  # its square is subtracted: what is left is known to a share of that
    raised = raise_unknown(Covariance(mean, matrix, 100), HEADS)
    expected = basis @ torch.diag(torch.tensor([4, 2, 1, *[4 * UNKNOWN] * 3]).double()) @ basis.T
    torch.testing.assert_close(raised.matrix[first, first], expected, rtol=0, atol=1e-14)
    least = UNKNOWN * (torch.linalg.eigvalsh(drawn.matrix[second, second])[-1] + 1e6 * WIDTH)
    assert float(torch.linalg.eigvalsh(raised.matrix[second, second])[0]) == pytest.approx(float(least))
    assert not raised.matrix[third].any()
    torch.testing.assert_close(raised.matrix[first, second], matrix[first, second], rtol=0, atol=0)


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
