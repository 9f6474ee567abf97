"""A plan's new weights: where they go in the slim model, and what they are in the dense one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from passes.errors import PlanError
from passes.plan.fingerprint import check_fingerprint
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.kinds import kind_of
from passes.sites.site import Site, axes_gone, staying


def is_changed(site: Site, entry: SitePlan, updates: Mapping[str, Tensor]) -> bool:
    """Say whether a plan changes a site: fewer units, narrower heads or new weights."""
    narrower = entry.width not in (None, site.unit_width)
    return (
        len(entry.kept) < site.units or narrower or any(name in updates for path in site.paths for name in _names(path))
    )


def check_updates(plan: SlimPlan, sites: Sequence[Site], parameters: Mapping[str, Tensor]) -> None:
    """Refuse updates that don't fit the plan's sites.

    Args:
        plan: which sites become how large.
        sites: all sites of the dense model.
        parameters: the dense model's, by path.

    Raises:
        PlanError: an update belongs to no site, has another shape or type than the slim parameter, or is not finite;
            or heads become narrower without new weights.
    """
    unused = set(plan.updates)
    for site in sites:
        entry = plan.sites.get(site.name)
        if entry is None:
            continue
        if entry.width is not None:
            _check_width(site, entry, plan.updates)
        for name, expected in slim_shapes(site, entry, parameters):
            if name not in plan.updates:
                continue
            unused.discard(name)
            value = plan.updates[name]
            if tuple(value.shape) != expected or not value.is_floating_point():
                raise PlanError(
                    f"site {site.name!r}: the update of {name!r} is {value.dtype} {tuple(value.shape)} where "
                    f"{expected} belongs; plan anew"
                )
            if not bool(torch.isfinite(value).all()):
                raise PlanError(f"site {site.name!r}: the update of {name!r} is not finite; calibrate on more samples")
    if unused:
        raise PlanError(f"the plan updates {min(unused)!r}, which belongs to no site of this model; plan anew")


def dense_parameters(
    site: Site, entry: SitePlan, updates: Mapping[str, Tensor], parameters: Mapping[str, Tensor], *, implied_scale: bool
) -> dict[str, Tensor]:
    """Write a site's updates in the dense model's shapes: every channel that is gone is zero.

    Args:
        site: a site of the dense model.
        entry: what stays of it.
        updates: the plan's.
        parameters: the dense model's, by path.
        implied_scale: attention scales its scores by 1/√(head width). A narrower head then scales by more than the
            dense one, for which the updates make up; here that is taken back.

    Returns:
        By path, for every updated parameter, a tensor of the dense parameter's shape and type.
    """
    gone = site.gone(entry.mask(), entry.width)
    result = {}
    for path in site.paths:
        for name in _names(path):
            if name not in updates:
                continue
            dense = parameters[name]
            value = updates[name].to(device=dense.device, dtype=dense.dtype)
            for axis, channels in axes_gone(path, dense.dim(), gone).items():
                value = _widened(value, axis, staying(dense.shape[axis], channels), dense.shape[axis])
            if implied_scale and path == site.writers[0].path and entry.width is not None:
                value = value * math.sqrt(site.unit_width / entry.width)
            result[name] = value
    return result


def _widened(value: Tensor, axis: int, places: Tensor, size: int) -> Tensor:
    """Spread a tensor along an axis to these places of a larger one of zeros."""
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    return value.new_zeros(shape).index_copy(axis, places.to(value.device), value)


def _names(path: str) -> tuple[str, str]:
    return f"{path}.weight", f"{path}.bias"


def _check_width(site: Site, entry: SitePlan, updates: Mapping[str, Tensor]) -> None:
    assert entry.width is not None
    if entry.width > site.unit_width:
        raise PlanError(f"site {site.name!r}: heads are {site.unit_width} wide and can't become {entry.width}")
    if entry.width == site.unit_width:
        return
    if not kind_of(site.kind).narrowable(site):
        raise PlanError(
            f"site {site.name!r}: heads can't be made narrower where one linear makes query, key or value together; "
            "remove whole heads there"
        )
    missing = [path for path in site.paths if f"{path}.weight" not in updates]
    if missing:
        raise PlanError(
            f"site {site.name!r}: heads of width {entry.width} need new weights for {missing[0]!r}; the plan has none: "
            "plan anew from statistics"
        )


def slim_shapes(site: Site, entry: SitePlan, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Walk over the parameters of a site's modules: their names, and the shapes they have in the slim model."""
    gone = site.gone(entry.mask(), entry.width)
    for path in site.paths:
        for name in _names(path):
            if name in parameters:
                shape = list(parameters[name].shape)
                for axis, channels in axes_gone(path, len(shape), gone).items():
                    shape[axis] -= len(channels)
                yield name, tuple(shape)


def changed_sites(program: Program, plan: SlimPlan) -> list[tuple[Site, Tensor]]:
    """List the sites that the plan changes, with their masks (bool [units]; True keeps).

    Raises:
        PlanError: the plan is of another model, or its updates don't fit.
    """
    sites = find_sites(program)
    check_fingerprint(plan, program, sites)
    check_updates(plan, sites, dict(program.graph_module.named_parameters()))
    changed = []
    for site in sites:
        entry = plan.sites.get(site.name)
        if entry is None or entry.units != site.units or entry.kind != site.kind:
            raise PlanError(
                f"site {site.name!r}: the plan doesn't have it as {site.units} {site.kind} units; plan anew"
            )
        if is_changed(site, entry, plan.updates):
            changed.append((site, entry.mask()))
    return changed
