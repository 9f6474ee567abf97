"""Slice the linears of a site, or put other weights in: rows of what writes its units, columns of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from passes.errors import CouplingError
from passes.plan.updates import linear_paths
from passes.sites.site import Producer, Site


def slim_site(site: Site, kept: Tensor, width: int | None = None) -> Site:
    """Describe what a site becomes when only `kept` (bool [units]; True keeps) is left of it, each `width` wide."""
    gone = torch.ones(site.width, dtype=torch.bool)
    gone[site.columns(kept, width)] = False
    producers = []
    for producer in site.producers:
        rows = torch.cat([gone.nonzero().flatten() + offset for offset in producer.offsets])
        offsets = tuple(offset - int((rows < offset).sum()) for offset in producer.offsets)
        producers.append(Producer(producer.path, offsets))
    return replace(site, units=int(kept.sum()), unit_width=width or site.unit_width, producers=tuple(producers))


def slice_linears(model: nn.Module, site: Site, kept: Tensor, width: int | None = None) -> None:
    """Replace the site's linears, in `model`, by ones that hold only the kept rows and columns.

    Args:
        model: any module tree that has the site's linears under their paths.
        site: the site.
        kept: bool [units]; True keeps.
        width: how many channels of each kept unit stay, the first ones; None for all. What they compute then comes
            with the plan's updates.
    """
    rows: dict[str, Tensor] = {}
    for producer in site.producers:
        found = site.rows(producer, kept, width)
        rows[producer.path] = torch.cat([rows[producer.path], found]) if producer.path in rows else found
    for path, index in rows.items():
        _swap(model, path, sliced_linear(model.get_submodule(path), rows=index.sort().values))
    _swap(model, site.consumer, sliced_linear(model.get_submodule(site.consumer), columns=site.columns(kept, width)))


def sliced_linear(linear: nn.Module, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    """Copy some rows or columns of a linear into a new one of that size.

    Args:
        linear: the linear; it is only read.
        rows: int64, output channels that stay, or None for all.
        columns: int64, input channels that stay, or None for all.

    Raises:
        CouplingError: it is no `nn.Linear`.
    """
    if type(linear) is not nn.Linear:
        raise CouplingError(
            f"{type(linear).__name__} is no plain nn.Linear; merge adapters or quantization wrappers first"
        )
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if rows is not None:
        rows = rows.to(weight.device)
        weight, bias = weight.index_select(0, rows), None if bias is None else bias.index_select(0, rows)
    if columns is not None:
        weight = weight.index_select(1, columns.to(weight.device))
    result = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    result.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    if bias is not None:
        # Columns alone leave the bias as it is: share it.
        whole = rows is None
        result.bias = linear.bias if whole else nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
    return result.train(linear.training)


def _swap(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)


def put_updates(model: nn.Module, site: Site, updates: Mapping[str, Tensor]) -> None:
    """Replace parameters of a site's linears, in a model that has been sliced already."""
    for path in linear_paths(site):
        linear = model.get_submodule(path)
        for name, parameter in list(linear.named_parameters(recurse=False)):
            value = updates.get(f"{path}.{name}")
            if value is not None:
                new = value.to(device=parameter.device, dtype=parameter.dtype)
                setattr(linear, name, nn.Parameter(new, requires_grad=parameter.requires_grad))
