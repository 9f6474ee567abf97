"""Random covariances and linears for tests of the closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance
from passes.sites.site import Site
from tests.sites import linear_site

TOKENS = 100_000  # so many that λ is at its least


def random_covariance(width: int, seed: int, rank: int | None = None) -> Covariance:
    """Draw a covariance, of a rank if one is given, and a mean."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(width, rank or 2 * width, generator=generator, dtype=torch.float64)
    return Covariance(torch.randn(width, generator=generator, dtype=torch.float64), root @ root.T / width, TOKENS)


def random_weight(out: int, width: int, seed: int) -> Tensor:
    """Draw a linear's weight, float64 [out, width]."""
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error_of(weight: Tensor, inputs: Covariance, kept: Tensor, new: Tensor) -> float:
    """Compute E‖W (a − μ) − W' (a − μ)_kept‖², the long way."""
    lost = weight.clone()
    lost[:, kept] -= new
    return float(torch.trace(lost @ inputs.matrix @ lost.T))


def feed_forward(neurons: int) -> Site:
    """Make a site of so many neurons."""
    return linear_site("ff", "feed_forward", neurons, 1, ("ff.up",), "ff.down")


def attention(heads: int, width: int) -> Site:
    """Make a site of so many heads."""
    producers = ("attn.q", "attn.k", "attn.v")
    return linear_site("attn", "attention", heads, width, producers, "attn.out")
