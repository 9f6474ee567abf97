"""Backward elimination: take the unit whose loss, after the others are refitted, is least; and again.

With G = (C + λI)⁻¹ over the units that are left and W' their refitted weights, removing unit j and refitting the others
adds ‖W'_j‖² / G_jj to the error (optimal brain surgeon; OBS-Diff, arXiv 2510.06751). G and the Gram matrix of W' then
change by a rank-one term each. Terms are collected and applied a block at a time, as in a blocked Cholesky
factorization, which a removal is a step of: subtracting from a positive definite matrix what leaves it so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance
from passes.solve.least_squares import LEAST_RIDGE, ridge_factor

BLOCK = 64
_TINY = 1e-300
_DEAD_SHARE = 0.2


def tie(size: int) -> float:
    """Say by which share losses of a matrix of this size may differ through rounding alone: n · 2⁻⁵² / least λ.

    The condition number of C + λI is at most n over λ as a share of the mean variance, and inverting loses that many
    units of the last place. Of units whose losses are that close, the one of the lowest index goes.
    """
    return size * torch.finfo(torch.float64).eps / LEAST_RIDGE


@dataclass(frozen=True)
class Elimination:
    """In which order units go, and what it costs.

    Attributes:
        order: units in the order of their removal; all but the last one.
        errors: after each removal, E‖W a − W' a'‖² + λ‖W − W'‖² with the survivors refitted. Never falls.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def eliminate_neurons(weight: Tensor, inputs: Covariance, block: int = BLOCK) -> Elimination:
    """Order neurons by backward elimination.

    Args:
        weight: of the reader, [out, n].
        inputs: covariance of its n inputs.
        block: removals between two updates of the whole matrices; changes rounding alone.
    """
    weight = weight.double()
    inverse = _inverse(inputs)
    gram = weight.T @ weight
    left = torch.arange(len(inverse))  # the unit of each row
    gone = torch.zeros(len(inverse), dtype=torch.bool)  # rows of removed units
    order: list[int] = []
    errors: list[float] = []
    while len(order) < weight.shape[1] - 1:
        rows, losses = _remove_block(inverse, gram, gone, min(block, weight.shape[1] - 1 - len(order)))
        order += left[rows].tolist()
        errors += losses
        gone[rows] = True
        if int(gone.sum()) > _DEAD_SHARE * len(gone):
            # rows of removed units cost time in every product; copying the rest costs some as well
            stay = (~gone).nonzero().flatten()
            inverse, gram = inverse[stay].index_select(1, stay), gram[stay].index_select(1, stay)
            left, gone = left[stay], torch.zeros(len(stay), dtype=torch.bool)
    return Elimination(tuple(order), tuple(torch.tensor(errors, dtype=torch.float64).cumsum(0).tolist()))


def _remove_block(inverse: Tensor, gram: Tensor, gone: Tensor, count: int) -> tuple[list[int], list[float]]:
    """Choose the next removals and apply them to both matrices, in place; gives their rows and the losses."""
    size = len(inverse)
    columns = inverse.new_zeros(size, count)  # l: with G − l lᵀ the removed unit is gone from G
    products = inverse.new_zeros(size, count)  # u = W'ᵀ v, v = W'_j / √G_jj
    norms = inverse.new_zeros(count)  # vᵀ v
    diagonal, squares = inverse.diagonal().clone(), gram.diagonal().clone()
    squares[gone] = math.inf
    rows: list[int] = []
    losses: list[float] = []
    close = 1 + tie(size)
    for step in range(count):
        each = squares.clamp_min(0).div_(diagonal.clamp_min(_TINY))
        unit = int((each <= each.min() * close).byte().argmax())  # the first of those
        before = columns[:, :step]
        mine = before[unit]
        column = inverse[unit] - before @ mine
        product = gram[unit] - before @ (products[unit, :step] - norms[:step] * mine) - products[:, :step] @ mine
        pivot = max(float(column[unit]), _TINY)
        columns[:, step] = column / math.sqrt(pivot)
        products[:, step] = product / math.sqrt(pivot)
        norms[step] = max(float(product[unit]), 0.0) / pivot
        losses.append(float(norms[step]))
        line, dot = columns[:, step], products[:, step]
        diagonal -= line.square()
        squares -= 2 * line * dot - norms[step] * line.square()
        squares[unit] = math.inf
        rows.append(unit)
    inverse.addmm_(columns, columns.T, alpha=-1)
    # l uᵀ + u lᵀ − vᵀv l lᵀ as one symmetric pair of products
    shared = products - 0.5 * norms * columns
    gram.addmm_(columns, shared.T, alpha=-1).addmm_(shared, columns.T, alpha=-1)
    return rows, losses


def eliminate_heads(weight: Tensor, inputs: Covariance, heads: int) -> Elimination:
    """Order heads by backward elimination: the same in blocks, tr(W'_j G_jj⁻¹ W'_jᵀ).

    Args:
        weight: of the reader, [out, heads * head_dim].
        inputs: covariance of its inputs.
        heads: how many.
    """
    current = weight.double().clone()
    inverse = _inverse(inputs)
    places = torch.arange(len(inverse)).reshape(heads, -1)
    left = list(range(heads))
    order: list[int] = []
    errors: list[float] = []
    while len(left) > 1:
        losses = {head: _head_loss(current, inverse, places[head]) for head in left}
        close = min(losses.values()) * (1 + tie(len(inverse)))
        head = next(head for head in left if losses[head] <= close)
        order.append(head)
        errors.append(losses[head] + (errors[-1] if errors else 0.0))
        left.remove(head)
        mine, rest = places[head], places[left].flatten()
        step = torch.linalg.solve(inverse[mine][:, mine], inverse[mine][:, rest])
        current[:, rest] -= current[:, mine] @ step
        # indexing twice copies, so this goes through a tensor of its own
        inverse[rest.unsqueeze(1), rest] = inverse[rest][:, rest] - inverse[rest][:, mine] @ step
    return Elimination(tuple(order), tuple(errors))


def removal_losses(weight: Tensor, inputs: Covariance, units: int) -> Tensor:
    """Compute what removing each unit alone would cost, the others refitted: tr(W_j G_jj⁻¹ W_jᵀ), float64 [units].

    Args:
        weight: of the reader, [out, units * unit_width].
        inputs: covariance of its inputs.
        units: heads or neurons.
    """
    weight, inverse = weight.double(), _inverse(inputs)
    if units == len(inverse):
        return weight.square().sum(0) / inverse.diagonal()
    places = torch.arange(len(inverse)).reshape(units, -1)
    return torch.tensor([_head_loss(weight, inverse, mine) for mine in places], dtype=torch.float64)


def leverage_scores(inputs: Covariance) -> Tensor:
    """Compute ridge leverage scores, diag(C (C + λI)⁻¹), float64 [n] (MoDeGPT's Nyström score, arXiv 2408.09632)."""
    factor = ridge_factor(inputs.matrix, inputs.count)
    return torch.cholesky_solve(inputs.matrix, factor).diagonal().clamp_min(0)


def leverage_order(inputs: Covariance) -> Tensor:
    """Order neurons by their ridge leverage, the least first, int64 [n]; those within rounding by their index."""
    close = tie(len(inputs.matrix))
    return (leverage_scores(inputs) / close).round().argsort(stable=True)


def _head_loss(weight: Tensor, inverse: Tensor, mine: Tensor) -> float:
    own = weight[:, mine]
    return max(0.0, float((own * torch.linalg.solve(inverse[mine][:, mine], own.T).T).sum()))


def _inverse(inputs: Covariance) -> Tensor:
    return torch.cholesky_inverse(ridge_factor(inputs.matrix, inputs.count))
