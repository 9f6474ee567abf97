"""Attention: units are heads, of a scaled dot-product attention with linears of its own around it."""

from __future__ import annotations

from torch import Tensor, nn

from passes.calibrate.moments import Covariance, Sums, score_shapes
from passes.calibrate.observers import HeadObserver
from passes.sites.attention import find_attention
from passes.sites.kind import Kind
from passes.sites.site import Site
from passes.solve.compensation import compensate
from passes.solve.error_curves import ErrorCurve, narrows, removal_curve, width_curve
from passes.solve.recipes import Recipe


def _tokens(activation: Tensor) -> Tensor:
    """Lay [B, heads, T, head_dim] out as [B, T, heads, head_dim]."""
    return activation.transpose(1, 2)


def _curve(site: Site, weight: Tensor, inputs: Covariance, sums: Sums, recipe: Recipe) -> ErrorCurve:
    if recipe.heads == "narrow" and narrows(site):
        return width_curve(site, weight, inputs, sums, joint=recipe.joint)
    return removal_curve(site, weight, inputs)


def _has_own_linears(site: Site) -> bool:
    """Tell whether query, key and value each have a linear of their own, in this order: one that makes two can't be."""
    paths = [each.path for each in site.writers]
    return len(paths) == 3 == len(set(paths)) and len(site.slices) == 4


def _is_norm_of_each_head(site: Site, module: nn.Module, value: Tensor) -> bool:
    """Tell whether a module is a norm whose weights are as long as one head: it acts on every head alike."""
    one_head = list(getattr(module, "normalized_shape", ())) == [site.unit_width]
    return one_head and value.dim() == 4 and site.units in value.shape[1:3]


ATTENTION = Kind(
    name="attention",
    words="heads",
    find=find_attention,
    mask_axis=1,  # of [B, heads, T, head_dim]
    tokens=_tokens,
    observer=HeadObserver,
    criterion="l2",
    curve=_curve,
    compensate=compensate,
    sums=score_shapes,
    narrowable=_has_own_linears,
    acts_alike=_is_norm_of_each_head,
)
