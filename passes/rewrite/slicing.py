"""Slice the modules of a site, or put other weights in: one function for each type of module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from passes.errors import CouplingError
from passes.sites.site import Side, Site, Slice, axes_gone, without

_Module = TypeVar("_Module", bound=nn.Module)
# By side, the channels that go: int64, ascending.
Gone = Mapping[Side, Tensor]


def slim_site(site: Site, kept: Tensor, width: int | None = None) -> Site:
    """Describe what a site becomes when only `kept` (bool [units]; True keeps) is left of it, each `width` wide."""
    gone = site.gone(kept, width)
    slices = tuple(
        Slice(each.path, each.side, each.start - int((gone[each.path, each.side] < each.start).sum()), per_unit)
        for each in site.slices
        for per_unit in (each.per_unit if width is None else min(width, each.per_unit),)
    )
    return replace(site, units=int(kept.sum()), slices=slices)


def slice_modules(model: nn.Module, site: Site, kept: Tensor, width: int | None = None) -> None:
    """Replace the site's modules, in `model`, by ones that hold only the kept channels.

    Args:
        model: any module tree that has the site's modules under their paths.
        site: the site.
        kept: bool [units]; True keeps.
        width: how many channels of each kept unit stay, the first ones; None for all. What they compute then comes
            with the plan's updates.

    Raises:
        CouplingError: a module is of a type that can't be sliced.
    """
    gone = site.gone(kept, width)
    for path in site.paths:
        sides: Gone = {side: channels for (place, side), channels in gone.items() if place == path}
        _swap(model, path, sliced(model.get_submodule(path), sides))


def sliced(module: nn.Module, gone: Gone) -> nn.Module:
    """Copy a module without some of its channels; the module is only read.

    Raises:
        CouplingError: it is of a type that can't be sliced, or that side of it can't.
    """
    cut = _BY_TYPE.get(type(module))
    if cut is None:
        raise CouplingError(
            f"{type(module).__name__} is no plain nn.Linear, convolution, GroupNorm or embedding; merge adapters or "
            "quantization wrappers first"
        )
    return cut(module, gone).train(module.training)


def can_be_sliced(module: nn.Module) -> bool:
    """Tell whether a module is of a type that can be sliced: exactly that type, for a subclass may do anything."""
    return type(module) in _BY_TYPE


def _linear(module: nn.Linear, gone: Gone) -> nn.Linear:
    outputs, inputs = module.out_features - _count(gone, "out"), module.in_features - _count(gone, "in")
    new = nn.Linear(inputs, outputs, module.bias is not None, device="meta", dtype=module.weight.dtype)
    return _with_parameters(new, module, gone)


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, gone: Gone) -> nn.Module:
    if module.groups != 1:
        raise CouplingError(f"a convolution of {module.groups} groups can't lose single channels; leave it whole")
    new = type(module)(
        module.in_channels - _count(gone, "in"),
        module.out_channels - _count(gone, "out"),
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        module.padding,  # type: ignore[arg-type]
        module.dilation,  # type: ignore[arg-type]
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device="meta",
        dtype=module.weight.dtype,
    )
    return _with_parameters(new, module, gone)


def _group_norm(module: nn.GroupNorm, gone: Gone) -> nn.GroupNorm:
    width = module.num_channels // module.num_groups
    counts = torch.bincount(gone.get("channels", torch.empty(0, dtype=torch.int64)) // width)
    if bool(((counts > 0) & (counts < width)).any()):
        raise CouplingError("a group of a GroupNorm can't lose a part of its channels: its mean would change")
    groups = module.num_groups - int((counts > 0).sum())
    new = nn.GroupNorm(groups, groups * width, module.eps, module.affine, device="meta")
    return _with_parameters(new, module, gone)


def _embedding(module: nn.Embedding, gone: Gone) -> nn.Embedding:
    new = nn.Embedding(module.num_embeddings, module.embedding_dim - _count(gone, "channels"), device="meta")
    return _with_parameters(new, module, gone)


def _count(gone: Gone, side: Side) -> int:
    return len(gone[side]) if side in gone else 0


def _with_parameters(new: _Module, module: nn.Module, gone: Gone) -> _Module:
    """Give a module of the new size the parameters of the old one; those that no channel is gone from are shared."""
    places = {("", side): channels for side, channels in gone.items()}
    for name, parameter in module.named_parameters(recurse=False):
        axes = axes_gone("", parameter.dim(), places)
        value = without(parameter.detach(), axes)
        setattr(new, name, nn.Parameter(value, requires_grad=parameter.requires_grad) if axes else parameter)
    return new


# A LayerNorm or RMSNorm over the channels of a site would be another function of those that stay: none is here.
_BY_TYPE: Mapping[type, Callable[[nn.Module, Gone], nn.Module]] = {
    nn.Linear: cast("Callable[[nn.Module, Gone], nn.Module]", _linear),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), cast("Callable[[nn.Module, Gone], nn.Module]", _convolution)),
    nn.GroupNorm: cast("Callable[[nn.Module, Gone], nn.Module]", _group_norm),
    nn.Embedding: cast("Callable[[nn.Module, Gone], nn.Module]", _embedding),
}


def _swap(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)


def put_updates(model: nn.Module, site: Site, updates: Mapping[str, Tensor]) -> None:
    """Replace parameters of a site's modules, in a model that has been sliced already."""
    for path in site.paths:
        module = model.get_submodule(path)
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = updates.get(f"{path}.{name}")
            if value is not None:
                new = value.to(device=parameter.device, dtype=parameter.dtype)
                setattr(module, name, nn.Parameter(new, requires_grad=parameter.requires_grad))
