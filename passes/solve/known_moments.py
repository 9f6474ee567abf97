"""What second moments of activations can't know, and square roots that don't drop it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance

# Below this share of the largest, an eigenvalue is not known: products of activations are taken in float32, whose
# rounding of 2⁻²³ adds up over the tokens of a block to a few times that. What is not known is taken to be this large.
UNKNOWN = 8 * torch.finfo(torch.float32).eps


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
    for part in head_slices(heads, len(matrix) // heads):
        values, vectors = torch.linalg.eigh(matrix[part, part])
        least = UNKNOWN * (values[-1] + inputs.mean[part].square().sum())
        matrix[part, part] += (vectors * (least - values).clamp_min(0)) @ vectors.T
    return replace(inputs, matrix=matrix)


def roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Give the square roots of second moments [..., d, d], their unknown directions raised, and the inverses."""
    values, vectors = torch.linalg.eigh(matrices)
    largest = values.amax(-1, keepdim=True)
    raised = torch.where(largest > 0, torch.maximum(values, UNKNOWN * largest), torch.ones_like(values)).sqrt()
    back = vectors.transpose(-1, -2)
    return (vectors * raised.unsqueeze(-2)) @ back, (vectors / raised.unsqueeze(-2)) @ back


def head_slices(heads: int, width: int) -> list[slice]:
    """Give where each head's channels are."""
    return [slice(head * width, (head + 1) * width) for head in range(heads)]


def tails(values: Tensor) -> Tensor:
    """Sum what comes after each entry, [n]: of few small terms, not as a difference of large ones."""
    after = values.flip(0).cumsum(0).flip(0)
    return torch.cat([after[1:], after.new_zeros(1)])
