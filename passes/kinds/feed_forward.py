"""Feed-forward: units are neurons, between an up linear, an activation, perhaps a gate, and a down linear."""

from __future__ import annotations

from torch import Tensor

from passes.calibrate.moments import Covariance, Sums
from passes.calibrate.observers import NeuronObserver
from passes.sites.feed_forward import find_feed_forward
from passes.sites.kind import Kind
from passes.sites.site import Site
from passes.solve.compensation import compensate
from passes.solve.error_curves import ErrorCurve, leverage_curve, removal_curve
from passes.solve.recipes import Recipe


def _tokens(activation: Tensor) -> Tensor:
    """Lay [B, ..., neurons] out as [B, T, neurons]."""
    return activation.flatten(1, -2)


def _curve(site: Site, weight: Tensor, inputs: Covariance, sums: Sums, recipe: Recipe) -> ErrorCurve:
    offer = leverage_curve if recipe.neurons == "leverage" else removal_curve
    return offer(site, weight, inputs)


FEED_FORWARD = Kind(
    name="feed_forward",
    words="neurons",
    find=find_feed_forward,
    mask_axis=-1,  # of [B, ..., neurons]
    tokens=_tokens,
    observer=NeuronObserver,
    criterion="mean_abs",
    curve=_curve,
    compensate=compensate,
)
