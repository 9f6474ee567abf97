"""Fewer channels in each head's value: the best low-rank value–output maps under what calibration saw.

All heads of a site get the same width, and query, key and value do: fused attention kernels want that. For queries and
keys see `passes.solve.scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance
from passes.solve.known_moments import head_slices, roots, tails
from passes.solve.least_squares import Refit, refit, refitted, ridge, ridge_factor, ridge_of, rounding


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
    root, inverse = roots(torch.stack([inputs.matrix[part, part] for part in head_slices(heads, width)]))
    own = weight.double().reshape(len(weight), heads, width).transpose(0, 1)
    _, vectors = torch.linalg.eigh(root @ own.transpose(1, 2) @ own @ root)
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
    lost = tails((factor.T @ _own_parts(weight, maps)[:, level_first].T).square().sum(1))
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
    own = head_slices(heads, head_dim)
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
