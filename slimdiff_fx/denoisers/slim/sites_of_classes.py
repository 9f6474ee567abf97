"""Where sites are in diffusers' classes: for plans and saved folders that say no more than a site's name and kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import PixArtAlphaTextProjection
from torch import nn

from passes.errors import PlanError
from passes.plan.slim_plan import SitePlan
from passes.sites.site import Site, Slice

# Ends of the paths of a site's linears: those that make its units, and the one that reads them.
_ATTENTION = (("to_q", "to_k", "to_v"), "to_out.0")
_FEED_FORWARD, _TEXT_PROJECTION = (("net.0.proj",), "net.2"), (("linear_1",), "linear_2")
_NAMED_AFTER = {"feed_forward": "net"}  # a module within the site that its name may end with


def site_of_class(model: nn.Module, name: str, entry: SitePlan) -> Site:
    """Tell a site from the class of its module.

    Raises:
        PlanError: no site of that kind is known in that class.
        AttributeError: the model has no such module.
    """
    owner = model.get_submodule(name)
    found = _BY_KIND.get(entry.kind)
    if found is None:
        raise PlanError(
            f"site {name!r}: {type(owner).__name__} has no known {entry.kind}; rewrite the captured program"
        )
    return found(model, owner, name)


def linears_of_site(name: str, kind: str) -> dict[str, bool]:
    """Give the paths that a site's linears may have, and whether each loses input columns (True) or output rows."""
    base = _base(name, kind)
    return {f"{base}.{end}": end == reader for writers, reader in _ENDS.get(kind, ()) for end in (*writers, reader)}


def slices_of_linear(entry: SitePlan, path: str, length: int, *, reads: bool) -> tuple[Slice, ...]:
    """Tell where a site's units are in `length` channels of one of its linears; its units must divide them."""
    width = length // entry.units
    if reads:
        return (Slice(path, "in", 0, width),)
    if entry.kind in _WHOLE_UNITS:
        return (Slice(path, "out", 0, width),)
    return tuple(Slice(path, "out", block * entry.units) for block in range(width))


def refuse_odd(owner: Attention, name: str) -> None:
    """Refuse an attention that computes something else than its separate linears say.

    Raises:
        PlanError: says what it has.
    """
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


def _base(name: str, kind: str) -> str:
    """Give the path of the module that holds a site's linears."""
    parent, _, last = name.rpartition(".")
    return parent if last == _NAMED_AFTER.get(kind) else name


def _attention(model: nn.Module, owner: Any, name: str) -> Site:
    if not isinstance(owner, Attention):
        raise PlanError(
            f"site {name!r}: {type(owner).__name__} is no diffusers attention; rewrite the captured program"
        )
    refuse_odd(owner, name)
    head_dim = owner.to_q.out_features // owner.heads
    (writers, reader) = _ATTENTION
    slices = (
        *(Slice(f"{name}.{end}", "out", 0, head_dim) for end in writers),
        Slice(f"{name}.{reader}", "in", 0, head_dim),
    )
    return Site(name, "attention", owner.heads, slices, slices[-1].path)


def _feed_forward(model: nn.Module, owner: Any, name: str) -> Site:
    base = _base(name, "feed_forward")
    if isinstance(owner, nn.ModuleList):  # named after its list of layers
        owner = model.get_submodule(base)
    if isinstance(owner, FeedForward):
        (up_end,), down_end = _FEED_FORWARD
    elif isinstance(owner, PixArtAlphaTextProjection):
        (up_end,), down_end = _TEXT_PROJECTION
    else:
        raise PlanError(f"site {name!r}: {type(owner).__name__} is no known feed-forward; rewrite the captured program")
    try:
        up, down = owner.get_submodule(up_end), owner.get_submodule(down_end)
    except AttributeError as error:
        raise PlanError(f"site {name!r}: {error}; rewrite the captured program") from error
    if not isinstance(up, nn.Linear) or not isinstance(down, nn.Linear):
        raise PlanError(f"site {name!r}: not linear, activation, linear; rewrite the captured program")
    units, blocks = down.in_features, up.out_features // down.in_features
    if blocks not in (1, 2) or up.out_features != blocks * units:
        raise PlanError(f"site {name!r}: {up.out_features} channels up, {units} down; rewrite the captured program")
    writers = (Slice(f"{base}.{up_end}", "out", block * units) for block in range(blocks))
    return Site(name, "feed_forward", units, (*writers, Slice(f"{base}.{down_end}", "in")), f"{base}.{down_end}")


_ENDS: Mapping[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "attention": (_ATTENTION,),
    "feed_forward": (_FEED_FORWARD, _TEXT_PROJECTION),
}
_WHOLE_UNITS = ("attention",)  # a unit's rows lie together; else each block of rows has one of every unit
_BY_KIND: Mapping[str, Callable[[nn.Module, Any, str], Site]] = {
    "attention": _attention,
    "feed_forward": _feed_forward,
}
