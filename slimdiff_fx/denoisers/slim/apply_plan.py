"""Carry a plan out on an eager diffusers model: the same class under the same names, with smaller linears."""

from __future__ import annotations

import copy
from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import nn

from passes.arguments import check_kind
from passes.errors import PlanError
from passes.plan.fingerprint import check_parameters
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import check_updates, is_changed, linear_paths
from passes.program.ownership import own_tensors
from passes.rewrite.slicing import put_updates, slice_linears
from passes.sites.site import Producer, Site
from slimdiff_fx.denoisers.taken_over import refuse_taken_over


def apply_plan(model: nn.Module, plan: SlimPlan, *, in_place: bool = False) -> nn.Module:
    """Remove what the plan doesn't keep from a diffusers model.

    Gives the same function as `passes.rewrite.rewrite.rewrite` on the captured graph: the same rows and columns go,
    and the head counts that diffusers reads at every call are set to the kept ones.

    Args:
        model: a diffusers denoiser, e.g. a `UNet2DConditionModel`, with plain `nn.Linear` layers.
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
        for path in (path for site in changed for path in linear_paths(site)):
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
    sites = {name: eager_site(model, name, entry) for name, entry in plan.sites.items()}
    parameters = dict(model.named_parameters())
    check_parameters(plan, parameters, tuple(sites.values()))
    check_updates(plan, tuple(sites.values()), parameters)
    changed = [site for name, site in sites.items() if is_changed(site, plan.sites[name], plan.updates)]
    for site in changed:
        entry = plan.sites[site.name]
        slice_linears(model, site, entry.mask(), entry.width)
        put_updates(model, site, plan.updates)
        mend_head_count(model, site, len(entry.kept), entry.width)
        note_cut(model, site)
    return changed


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules; its parameters and buffers are shared, not copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def eager_site(model: nn.Module, name: str, entry: SitePlan) -> Site:
    """Find a plan's site in an eager model by its dotted path.

    Args:
        model: a diffusers denoiser.
        name: the site's name.
        entry: what the plan says of it.

    Raises:
        PlanError: there is no such module, or it is not one whose linears are known.
    """
    try:
        owner: Any = model.get_submodule(name)
    except AttributeError as error:
        raise PlanError(
            f"site {name!r}: {type(model).__name__} has no such module; the plan is of another model"
        ) from error
    if entry.kind == "attention" and isinstance(owner, Attention):
        site = _attention(owner, name)
    elif entry.kind == "feed_forward":
        site = _feed_forward(model, owner, name)
    else:
        raise PlanError(
            f"site {name!r}: {type(owner).__name__} is no diffusers attention; rewrite the captured program"
        )
    for path in (*(producer.path for producer in site.producers), site.consumer):
        linear = model.get_submodule(path)
        if type(linear) is not nn.Linear:
            raise PlanError(
                f"site {name!r}: {path!r} is a {type(linear).__name__}, no plain nn.Linear; merge adapters first, "
                "and quantize after slimming"
            )
    if site.units != entry.units:
        raise PlanError(
            f"site {name!r}: has {site.units} units where the plan has {entry.units}; plan anew for this model"
        )
    return site


def _attention(owner: Attention, name: str) -> Site:
    head_dim, rest = divmod(owner.to_q.out_features, owner.heads)
    odd = {
        "fused projections (call unfuse_qkv_projections first)": owner.fused_projections,
        "added key and value projections": owner.add_k_proj is not None,
        "grouped-query heads": owner.to_k is None or owner.to_k.out_features != owner.to_q.out_features,
        "no output projection": owner.to_out is None,
        "a width that its heads don't divide": rest != 0,
        "a norm across heads": any(
            getattr(norm, "weight", None) is not None and norm.weight.numel() != head_dim
            for norm in (owner.norm_q, owner.norm_k)
        ),
    }
    for reason, found in odd.items():
        if found:
            raise PlanError(f"site {name!r}: an attention with {reason} can't be cut here")
    producers = tuple(Producer(f"{name}.{linear}") for linear in ("to_q", "to_k", "to_v"))
    return Site(name, "attention", owner.heads, head_dim, producers, f"{name}.to_out.0")


def _feed_forward(model: nn.Module, owner: Any, name: str) -> Site:
    parent, _, last = name.rpartition(".")
    if isinstance(owner, nn.ModuleList) and last == "net":  # named after its list of layers
        owner = model.get_submodule(parent)
    else:
        parent = name
    if isinstance(owner, FeedForward):
        ends = "net.0.proj", "net.2"
    elif isinstance(owner, PixArtAlphaTextProjection):
        ends = "linear_1", "linear_2"
    else:
        raise PlanError(f"site {name!r}: {type(owner).__name__} is no known feed-forward; rewrite the captured program")
    try:
        up, down = (owner.get_submodule(end) for end in ends)
    except AttributeError as error:
        raise PlanError(f"site {name!r}: {error}; rewrite the captured program") from error
    if not isinstance(up, nn.Linear) or not isinstance(down, nn.Linear):
        raise PlanError(f"site {name!r}: not linear, activation, linear; rewrite the captured program")
    units, blocks = down.in_features, up.out_features // down.in_features
    if blocks not in (1, 2) or up.out_features != blocks * units:
        raise PlanError(f"site {name!r}: {up.out_features} channels up, {units} down; rewrite the captured program")
    offsets = tuple(block * units for block in range(blocks))
    return Site(name, "feed_forward", units, 1, (Producer(f"{parent}.{ends[0]}", offsets),), f"{parent}.{ends[1]}")


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
    """Note on a model which modules have other widths than its configuration says: see `cut_modules`."""
    paths = {site.name, site.consumer, *(producer.path for producer in site.producers)}
    model._cut_modules = cut_modules(model) | paths  # type: ignore[assignment]


def cut_modules(model: nn.Module) -> frozenset[str]:
    """Give the paths of the modules that plans have made smaller without a word in the model's configuration."""
    return frozenset(vars(model).get("_cut_modules", ()))
