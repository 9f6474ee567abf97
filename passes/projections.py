"""Fewer channels in each head: the best low-rank query–key and value–output maps under what calibration saw.

All heads of a site get the same width, and query, key and value do: fused attention kernels want that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from passes.least_squares import Refit, refit, refitted, ridge, ridge_factor, ridge_of, rounding
from passes.moments import KEY, KEY_COUNT, KEY_FIRST, QUERY, Covariance, Sums

# Below this share of the largest, an eigenvalue is not known: products of activations are taken in float32, whose
# rounding of 2⁻²³ adds up over the tokens of a block to a few times that. What is not known is taken to be this large.
UNKNOWN = 8 * torch.finfo(torch.float32).eps


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
    (query_root, query_inverse), (key_root, key_inverse) = map(_roots, _score_moments(sums, centred=centred))
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
    squares = torch.linalg.svdvals(_roots(query)[0] @ _roots(key)[0]).square()  # descending
    squares = squares * (energies > 0).unsqueeze(1)
    lost = (_tails(squares.sum(0)) / energies.sum().clamp_min(1e-300)).clamp_min(0)
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


def _tails(values: Tensor) -> Tensor:
    """Sum what comes after each entry, [n]: of few small terms, not as a difference of large ones."""
    after = values.flip(0).cumsum(0).flip(0)
    return torch.cat([after[1:], after.new_zeros(1)])


def raise_unknown(inputs: Covariance, heads: int) -> Covariance:
    """Give a covariance in which no head has a direction that carries less than calibration could have overlooked.

    In a head's own block, eigenvalues below `UNKNOWN` of its largest and of its squared mean, which was subtracted, are
    raised to that. What is solved for a larger covariance loses no more of the true one: its figures stay upper ends.
    A head that gave nothing at all is left.

    Args:
        inputs: covariance of what enters the output linear.
        heads: how many.
    """
    matrix = inputs.matrix.clone()
    for part in _parts(heads, len(matrix) // heads):
        values, vectors = torch.linalg.eigh(matrix[part, part])
        least = UNKNOWN * (values[-1] + inputs.mean[part].square().sum())
        matrix[part, part] += (vectors * (least - values).clamp_min(0)) @ vectors.T
    return replace(inputs, matrix=matrix)


def value_maps(weight: Tensor, inputs: Covariance, heads: int) -> Tensor:
    """Find what replaces each head's output, best channels first: T, float64 [heads, head_dim, head_dim].

    The r channels T_r o from which W o is best given are the top right singular vectors of W M^½, M = E[o oᵀ], in
    whitened coordinates. It commutes with attention, which mixes tokens and not channels: so T goes into the value
    linear. All of T can be inverted: directions in which nothing was seen are treated as in `score_maps`. The other
    functions of values need that done to the covariance itself: see `raise_unknown`.

    Args:
        weight: of the output linear, [out, heads * head_dim].
        inputs: covariance of its inputs.
        heads: how many.
    """
    width = len(inputs.matrix) // heads
    root, inverse = _roots(torch.stack([inputs.matrix[part, part] for part in _parts(heads, width)]))
    parts = weight.double().reshape(len(weight), heads, width).transpose(0, 1)
    _, vectors = torch.linalg.eigh(root @ parts.transpose(1, 2) @ parts @ root)
    maps: Tensor = vectors.flip(2).transpose(1, 2) @ inverse
    return maps


def width_errors(weight: Tensor, inputs: Covariance, maps: Tensor) -> list[float]:
    """Compute the error of every width, 1 to head_dim, with the output linear refitted across heads.

    On all channels the output linear is X = W T⁻¹. Keeping some of them, with the others' part refitted towards theirs,
    leaves E‖W o − X' T' o‖² + λ‖X − X'‖². One Cholesky factorization L Lᵀ of T M Tᵀ + λI gives that for all widths:
    features sorted by channel, then head, each width is a prefix, and the rest of Lᵀ Xᵀ is what it loses.

    Returns:
        By width, that sum: `narrow_values` never has more error. Never rises.
    """
    heads, width, _ = maps.shape
    level_first = torch.arange(heads * width).reshape(heads, width).T.flatten()
    among = _mapped(inputs.matrix, maps)[level_first][:, level_first]
    factor = ridge_factor(among, inputs.count)
    lost = _tails((factor.T @ _own_parts(weight, maps)[:, level_first].T).square().sum(1))
    return lost[heads - 1 :: heads].tolist()


def separate_width_errors(weight: Tensor, inputs: Covariance, maps: Tensor) -> list[float]:
    """Compute the error of every width with each head giving back its own part alone.

    What head h loses with channel i is x_hi (t_hi · o_h), a column of W T⁻¹ times a row of T: the error of a width is
    the sum of (x_hi · x_gj) (t_hi M t_gj) over all pairs that it is without.

    Returns:
        E‖W o − X' T' o‖² by width, 1 to head_dim.
    """
    heads, width, _ = maps.shape
    level_first = torch.arange(heads * width).reshape(heads, width).T.flatten()
    own = _own_parts(weight, maps)
    pairs = ((own.T @ own) * _mapped(inputs.matrix, maps))[level_first][:, level_first]
    sums = pairs.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)  # of the pairs from each place on
    lost = torch.cat([sums[heads::heads], sums.new_zeros(1)]).clamp_min(0)
    return lost.tolist()


def _own_parts(weight: Tensor, maps: Tensor) -> Tensor:
    """Give W T⁻¹, each head by itself, [out, heads * head_dim]."""
    heads, width, _ = maps.shape
    parts = weight.double().reshape(len(weight), heads, width).transpose(0, 1)
    own: Tensor = torch.linalg.solve(maps, parts, left=False)
    return own.transpose(0, 1).reshape(len(weight), heads * width)


def _mapped(matrix: Tensor, maps: Tensor) -> Tensor:
    """Give T M Tᵀ, T block diagonal, without multiplying zeros."""
    heads, rank, width = maps.shape
    right = (matrix.reshape(-1, heads, width).transpose(0, 1) @ maps.transpose(1, 2)).transpose(0, 1)
    both = maps @ right.reshape(heads, width, heads * rank)
    return both.reshape(heads * rank, heads * rank)


def _parts(heads: int, width: int) -> list[slice]:
    return [slice(head * width, (head + 1) * width) for head in range(heads)]


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
    own = _parts(heads, head_dim)
    grams = [inputs.matrix[part, part] for part in own]
    back = _own_parts(weight, maps).reshape(-1, heads, head_dim)[:, :, :width].reshape(-1, heads * width)
    if not joint:
        return chosen, refitted(weight, inputs, block_diagonal(chosen), back)
    # λ as for all channels: the error of every width is then at most what `width_errors` says
    variances = torch.cat([((each @ gram) * each).sum(1) for each, gram in zip(maps, grams, strict=True)])
    penalty = ridge_of(variances, inputs.count)
    best = refit(weight, inputs, block_diagonal(chosen), back, penalty)
    close = rounding(weight, inputs)
    for _ in range(rounds if width < head_dim and best.error > close else 0):
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
        found = refit(weight, inputs, block_diagonal(trial), best.weight, penalty)
        if not found.error < best.error - close:
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
    """Give the square roots of second moments [..., d, d], their unknown directions raised, and the inverses."""
    values, vectors = torch.linalg.eigh(matrices)
    largest = values.amax(-1, keepdim=True)
    roots = torch.where(largest > 0, torch.maximum(values, UNKNOWN * largest), torch.ones_like(values)).sqrt()
    back = vectors.transpose(-1, -2)
    return (vectors * roots.unsqueeze(-2)) @ back, (vectors / roots.unsqueeze(-2)) @ back
