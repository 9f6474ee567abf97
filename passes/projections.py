"""Fewer channels in each head: the best low-rank query–key and value–output maps under what calibration saw.

All heads of a site get the same width, and query, key and value do: fused attention kernels want that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from passes.least_squares import Refit, output_energy, refit, refitted, ridge, ridge_factor
from passes.moments import KEY, KEY_COUNT, KEY_FIRST, QUERY, Covariance, Sums

# Eigenvalues below this share of the largest are rounding: products of activations are taken in float32.
_NOTHING = 1e-6


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

    Args:
        sums: of an attention site.
        centred: subtract the mean key.
    """
    query, key = _score_moments(sums, centred=centred)
    query_root, query_inverse = _roots(query)
    key_root, key_inverse = _roots(key)
    left, values, right = torch.linalg.svd(query_root @ key_root)
    share = values.sqrt().unsqueeze(2)
    return ScoreMaps(share * (left.transpose(1, 2) @ query_inverse), share * (right @ key_inverse))


def score_losses(sums: Sums, *, centred: bool = True) -> list[float]:
    """Compute what every width loses of the scores, as a share of their energy over all heads.

    Returns:
        Σ over heads of E(qᵀk − qᵀBk)² / E(qᵀk)² by width, 1 to head_dim; never rises. All zero if scores are.
    """
    query, key = _score_moments(sums, centred=centred)
    energies = torch.linalg.svdvals(_roots(query)[0] @ _roots(key)[0]).square().sum(0)  # descending
    tails = energies.sum() - energies.cumsum(0)
    shares = (tails / energies.sum().clamp_min(1e-300)).clamp_min(0)
    return [*shares[:-1].tolist(), 0.0]


def _score_moments(sums: Sums, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Give each head's second moments of queries and of keys, [heads, head_dim, head_dim]."""
    query = sums[QUERY] / sums[QUERY].new_tensor(float(sums["count"]))
    key = sums[KEY] / sums[KEY_COUNT]
    if centred:
        mean = sums[KEY_FIRST] / sums[KEY_COUNT]
        key = key - mean.unsqueeze(2) * mean.unsqueeze(1)
    return query, key


def value_maps(weight: Tensor, inputs: Covariance, heads: int) -> Tensor:
    """Find what replaces each head's output, best channels first: T, float64 [heads, head_dim, head_dim].

    The r channels T_r o from which W o is best given are the top right singular vectors of W M^½, M = E[o oᵀ], in
    whitened coordinates. It commutes with attention, which mixes tokens and not channels: so T goes into the value
    linear.

    Args:
        weight: of the output linear, [out, heads * head_dim].
        inputs: covariance of its inputs.
        heads: how many.
    """
    weighted, inverse = _weighted_outputs(weight, inputs, heads)
    _, vectors = torch.linalg.eigh(weighted)
    maps: Tensor = vectors.flip(2).transpose(1, 2) @ inverse
    return maps


def width_errors(weight: Tensor, inputs: Covariance, maps: Tensor) -> list[float]:
    """Compute the error of every width, 1 to head_dim, with the output linear refitted across heads.

    One Cholesky factorization gives all of them: features sorted by channel, then head, so that each width is a prefix.

    Returns:
        E‖W o − W' T o‖² by width; never rises.
    """
    heads, width, _ = maps.shape
    level_first = torch.arange(heads * width).reshape(heads, width).T.flatten()
    features = block_diagonal(maps)[level_first]
    onto = inputs.matrix @ features.T
    among = features @ onto
    solved = torch.linalg.solve_triangular(ridge_factor(among, inputs.count), onto.T @ weight.double().T, upper=False)
    explained = solved.square().sum(1).cumsum(0)[heads - 1 :: heads]
    total = output_energy(weight, inputs)
    errors: list[float] = (total - explained).clamp_min(0).tolist()
    return errors


def separate_width_errors(weight: Tensor, inputs: Covariance, heads: int) -> list[float]:
    """Compute the error of every width with each head giving back its own part alone: tails of eigenvalues.

    Returns:
        Σ over heads of E‖W o − U Uᵀ W o‖² by width, 1 to head_dim; never rises.
    """
    values, _ = torch.linalg.eigh(_weighted_outputs(weight, inputs, heads)[0])
    tails = values.clamp_min(0).sum(0).cumsum(0)  # ascending: the smallest go first
    return [*tails[:-1].flip(0).tolist(), 0.0]


def _weighted_outputs(weight: Tensor, inputs: Covariance, heads: int) -> tuple[Tensor, Tensor]:
    """Give M^½ Wᵀ W M^½ and M^-½ of each head."""
    width = len(inputs.matrix) // heads
    own = torch.stack([inputs.matrix[at : at + width, at : at + width] for at in range(0, len(inputs.matrix), width)])
    root, inverse = _roots(own)
    parts = weight.double().reshape(len(weight), heads, width).transpose(0, 1)
    return root @ parts.transpose(1, 2) @ parts @ root, inverse


def narrow_values(
    weight: Tensor, inputs: Covariance, maps: Tensor, width: int, *, joint: bool = True, rounds: int = 2
) -> tuple[Tensor, Refit]:
    """Narrow each head's output to `width` channels and refit the output linear.

    Args:
        weight: of the output linear, [out, heads * head_dim].
        inputs: covariance of its inputs.
        maps: from `value_maps`.
        width: channels to keep.
        joint: refit across heads. Otherwise each head gives back its own part, as the published method has it.
        rounds: improve the heads' channels in turn, each against what the others leave, this many times; the error
            never rises.

    Returns:
        The heads' maps [heads, width, head_dim], and the refitted output linear on them.
    """
    weight = weight.double()
    heads, head_dim, _ = maps.shape
    chosen = maps[:, :width].clone()
    own = [slice(head * head_dim, (head + 1) * head_dim) for head in range(heads)]
    grams = [inputs.matrix[part, part] for part in own]
    alone = zip(own, grams, chosen, strict=True)
    back = torch.cat([give_back(weight[:, part], gram, each) for part, gram, each in alone], 1)
    if not joint:
        return chosen, refitted(weight, inputs, block_diagonal(chosen), back)
    best = refit(weight, inputs, block_diagonal(chosen), back)
    for _ in range(rounds if width < head_dim else 0):
        trial = chosen.clone()
        lost = weight - best.weight @ block_diagonal(trial)
        for head in range(heads):
            columns = best.weight[:, head * width : (head + 1) * width]
            lost[:, own[head]] += columns @ trial[head]
            gram = grams[head]
            wanted = torch.linalg.lstsq(columns, lost @ inputs.matrix[:, own[head]]).solution
            system = gram + ridge(gram, inputs.count) * torch.eye(head_dim, dtype=torch.float64)
            # towards the present map, as in `refit`: so that a round can't do harm
            trial[head] += torch.linalg.solve(system, (wanted - trial[head] @ gram).T).T
            lost[:, own[head]] -= columns @ trial[head]
        found = refit(weight, inputs, block_diagonal(trial), best.weight)
        if not found.error < best.error:
            break
        chosen, best = trial, found
    return chosen, best


def block_diagonal(maps: Tensor) -> Tensor:
    """Write the heads' maps [heads, r, d] as one, [heads * r, heads * d]."""
    joined: Tensor = torch.block_diag(*maps)  # type: ignore[no-untyped-call]
    return joined


def give_back(weight: Tensor, gram: Tensor, chosen: Tensor) -> Tensor:
    """Give the least-squares weights on one head's channels by itself.

    Args:
        weight: float64 [out, head_dim].
        gram: second moment of the head's output, float64 [head_dim, head_dim].
        chosen: its channels as maps of that output, float64 [r, head_dim].

    Returns:
        float64 [out, r].
    """
    onto = gram @ chosen.T
    found: Tensor = torch.linalg.lstsq(chosen @ onto, onto.T @ weight.T, driver="gelsd").solution
    return found.T


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Give the square roots of positive semidefinite matrices [..., d, d] and the pseudo-inverses of those."""
    values, vectors = torch.linalg.eigh(matrices)
    values = values.clamp_min(0)
    real = values > _NOTHING * values.amax(-1, keepdim=True).clamp_min(1e-300)
    roots = values.sqrt() * real
    inverses = torch.where(real, roots.clamp_min(1e-150).reciprocal(), torch.zeros_like(roots))
    back = vectors.transpose(-1, -2)
    return (vectors * roots.unsqueeze(-2)) @ back, (vectors * inverses.unsqueeze(-2)) @ back
