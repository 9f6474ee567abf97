"""Carry a plan out on an eager diffusers model: the same class under the same names, with smaller modules."""

from __future__ import annotations

import copy
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from passes.arguments import check_kind
from passes.errors import PlanError
from passes.plan.fingerprint import check_parameters
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import check_updates, is_changed
from passes.program.ownership import own_tensors
from passes.rewrite.slicing import can_be_sliced, put_updates, slice_modules
from passes.sites.site import Site
from slimdiff_fx.denoisers.slim.sites_of_classes import refuse_odd, site_of_class
from slimdiff_fx.denoisers.taken_over import refuse_taken_over


def apply_plan(model: nn.Module, plan: SlimPlan, *, in_place: bool = False) -> nn.Module:
    """Remove what the plan doesn't keep from a diffusers model.

    Gives the same function as `passes.rewrite.rewrite.rewrite` on the captured graph: the same rows and columns go,
    and the head counts that diffusers reads at every call are set to the kept ones.

    Examples:
        >>> model = slimdiff_fx.apply_plan(unet, plan)
        >>> model.num_parameters() < unet.num_parameters()
        True

    Args:
        model: a diffusers denoiser, e.g. a `UNet2DConditionModel`, with plain `nn.Linear` layers; or any module whose
            program the plan was made for.
        plan: made for this model.
        in_place: change `model` itself; otherwise it is left as it is.

    Returns:
        The slim model, of the same class. It owns its weights: neither `model` nor the plan changes with it. In place,
        its untouched weights are `model`'s own, as they were.

    Raises:
        UsageError: no model or no plan; or the model was slimmed in place before, and holds no weights.
        PlanError: the plan is of another model, its updates don't fit, or it names a site that is no plain
            diffusers attention or feed-forward, or whose linears are wrapped by an adapter or a quantizer. Nothing has
            been changed then.
    """
    check_kind("model", model, nn.Module, "a diffusers denoiser, such as pipe.unet or pipe.transformer")
    check_kind("plan", plan, SlimPlan, "the plan that slimdiff_fx.analyze gives, or result.plan")
    refuse_taken_over(model)
    slim = model if in_place else shared_copy(model)
    changed = cut(slim, plan)
    if in_place:
        for path in (path for site in changed for path in site.paths):
            own_tensors(slim.get_submodule(path))
    else:
        own_tensors(slim)
    return slim


def cut(model: nn.Module, plan: SlimPlan) -> list[Site]:
    """Carry a plan out on a model in place; its new weights are the plan's own tensors.

    Returns:
        The sites that were changed.

    Raises:
        PlanError: as `apply_plan`.
    """
    sites = {name: eager_site(model, name, entry, plan.found.get(name)) for name, entry in plan.sites.items()}
    parameters = dict(model.named_parameters())
    check_parameters(plan, parameters, tuple(sites.values()))
    check_updates(plan, tuple(sites.values()), parameters)
    changed = [site for name, site in sites.items() if is_changed(site, plan.sites[name], plan.updates)]
    for site in changed:
        entry = plan.sites[site.name]
        slice_modules(model, site, entry.mask(), entry.width)
        put_updates(model, site, plan.updates)
        mend_head_count(model, site, len(entry.kept), entry.width)
        note_cut(model, site)
    return changed


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules; its parameters and buffers are shared, not copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def eager_site(model: nn.Module, name: str, entry: SitePlan, found: Site | None = None) -> Site:
    """Find a plan's site in an eager model by its dotted path.

    Args:
        model: a diffusers denoiser.
        name: the site's name.
        entry: what the plan says of it.
        found: the site as it was found in the graph; None in plans that don't say, and then it is told from the class.

    Raises:
        PlanError: there is no such module, or it is not one whose linears are known, or it can't be cut.
    """
    try:
        owner = model.get_submodule(name)
        if isinstance(owner, Attention):
            refuse_odd(owner, name)
        site = found if found is not None else site_of_class(model, name, entry)
        modules = {path: model.get_submodule(path) for path in site.paths}
    except AttributeError as error:
        raise PlanError(
            f"site {name!r}: {type(model).__name__} has no such module ({error}); the plan is of another model"
        ) from error
    for path, module in modules.items():
        if not can_be_sliced(module):
            raise PlanError(
                f"site {name!r}: {path!r} is a {type(module).__name__}, no plain nn.Linear; merge adapters first, "
                "and quantize after slimming"
            )
    if site.units != entry.units:
        raise PlanError(
            f"site {name!r}: has {site.units} units where the plan has {entry.units}; plan anew for this model"
        )
    return site


def mend_head_count(model: nn.Module, site: Site, kept: int, width: int | None = None) -> None:
    """Set the numbers that diffusers reads at every call; nothing to do where a site is no diffusers attention.

    Args:
        model: a diffusers denoiser.
        site: the site as it was.
        kept: heads that stay.
        width: channels of each; None leaves them.
    """
    owner = model.get_submodule(site.name)
    if not isinstance(owner, Attention):
        return
    owner.heads = kept
    # Attention slicing halves this, and takes slices over batch and heads: half of one head would be none.
    owner.sliceable_head_dim = max(kept, 2)
    owner.inner_dim = owner.inner_kv_dim = kept * (width or site.unit_width)
    if width is not None and width != site.unit_width and owner.scale_qk:
        # Fused attention takes 1/√width whatever this says; processors that write attention out shall agree with it.
        owner.scale = width**-0.5


def note_cut(model: nn.Module, site: Site) -> None:
    """Record on a model which modules have other widths than its configuration says: see `cut_modules`."""
    model._cut_modules = cut_modules(model) | {site.name, *site.paths}  # type: ignore[assignment]


def cut_modules(model: nn.Module) -> frozenset[str]:
    """Give the paths of the modules that plans have cut and that the model's configuration still gives in full."""
    return frozenset(vars(model).get("_cut_modules", ()))
