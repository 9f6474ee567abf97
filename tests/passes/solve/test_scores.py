"""Narrower queries and keys: exact at full width, best by the singular values, and as lossy as they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.calibrate.moments import KEY, KEY_COUNT, KEY_FIRST, QUERY
from passes.solve.scores import score_loss, score_losses, score_maps

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
