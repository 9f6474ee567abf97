"""Narrower queries and keys: the best low-rank form of each head's scores under what calibration saw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from passes.calibrate.moments import KEY, KEY_COUNT, KEY_FIRST, QUERY, Sums
from passes.solve.known_moments import roots, tails


@dataclass(frozen=True)
class ScoreMaps:
    """What replaces a head's query and key, best channels first: scores are (Q q)ᵀ(K k), exact with all channels.

    Attributes:
        query: Q, float64 [heads, head_dim, head_dim]; its first r rows are for width r.
        key: K, likewise.
    """

    query: Tensor
    key: Tensor


def score_maps(sums: Sums, *, centred: bool = True) -> ScoreMaps:
    """Find, for each head and every rank, the bilinear form that gives qᵀk best.

    The form qᵀ B k of rank r with least E(qᵀk − qᵀBk)², q and k independent, is the truncated SVD of C_q^½ C_k^½, which
    has the singular values of C_x^½ W_qᵀ W_k C_c^½. Softmax doesn't see what is added to all scores of a query: so k
    may be centred, and what the mean key gives need not be kept.

    Directions in which calibration saw nothing are taken to carry as much as it could have overlooked (`UNKNOWN`): they
    go first, but all that the width has room for stay as they were.

    Args:
        sums: of an attention site.
        centred: subtract the mean key.
    """
    (query_root, query_inverse), (key_root, key_inverse) = map(roots, _score_moments(sums, centred=centred))
    left, values, right = torch.linalg.svd(query_root @ key_root)
    share = values.sqrt().unsqueeze(2)
    return ScoreMaps(share * (left.transpose(1, 2) @ query_inverse), share * (right @ key_inverse))


def score_losses(sums: Sums, *, centred: bool = True) -> list[float]:
    """Compute what every width loses of the scores, as a share of their energy over all heads.

    The loss tr(C_q Δ C_k Δᵀ) of a form grows with both moments. So what it is for those with their unknown directions
    raised, which the form is the best for, is never less than what it is for the moments themselves.

    Returns:
        At least Σ over heads of E(qᵀk − qᵀBk)² / E(qᵀk)² by width, 1 to head_dim; never rises. All zero if scores are.
    """
    query, key = _score_moments(sums, centred=centred)
    energies = _score_energies(query, key)
    squares = torch.linalg.svdvals(roots(query)[0] @ roots(key)[0]).square()  # descending
    squares = squares * (energies > 0).unsqueeze(1)
    lost = (tails(squares.sum(0)) / energies.sum().clamp_min(1e-300)).clamp_min(0)
    return lost.tolist() if float(energies.sum()) > 0 else [0.0] * len(lost)


def score_loss(sums: Sums, query: Tensor, key: Tensor, *, centred: bool = True) -> float:
    """Compute what given maps lose of the scores: Σ over heads of E(qᵀk − (Q q)ᵀ(K k))² / E(qᵀk)².

    Args:
        sums: of an attention site.
        query: Q, float64 [heads, r, head_dim].
        key: K, likewise.
        centred: subtract the mean key.
    """
    queries, keys = _score_moments(sums, centred=centred)
    energy = float(_score_energies(queries, keys).sum())
    lost = torch.eye(query.shape[2], dtype=torch.float64) - query.transpose(1, 2) @ key
    error = float(((queries @ lost @ keys) * lost).sum())
    return max(error, 0.0) / energy if energy > 0 else 0.0


def _score_moments(sums: Sums, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Give each head's second moments of queries and of keys, [heads, head_dim, head_dim]."""
    query = sums[QUERY] / sums[QUERY].new_tensor(float(sums["count"]))
    key = sums[KEY] / sums[KEY_COUNT]
    if centred:
        mean = sums[KEY_FIRST] / sums[KEY_COUNT]
        key = _without_noise(key - mean.unsqueeze(2) * mean.unsqueeze(1), mean)
    return query, key


def _without_noise(moments: Tensor, means: Tensor) -> Tensor:
    """Give zero for a head whose activations are all the same: what a mean leaves of them there is its rounding.

    Args:
        moments: [heads, d, d], means subtracted.
        means: [heads, d].
    """
    trace = moments.diagonal(dim1=1, dim2=2).sum(1)
    least = means.shape[1] * torch.finfo(torch.float64).eps * (trace + means.square().sum(1))
    return torch.where((trace > least).reshape(-1, 1, 1), moments, torch.zeros_like(moments))


def _score_energies(query: Tensor, key: Tensor) -> Tensor:
    """Give E(qᵀk)² of each head, tr(C_q C_k), [heads]."""
    return (query * key).sum((1, 2)).clamp_min(0)
