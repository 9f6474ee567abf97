"""The weight of what reads a site's units, as the matrix that closed forms take, and written back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance, Sums, covariance
from passes.errors import UsageError
from passes.sites.site import Site


def reader_weight(site: Site, tensors: Mapping[str, Tensor]) -> Tensor:
    """Give the weight as a matrix on the channels that are read, float64 [out, channels].

    Args:
        site: the dense site.
        tensors: parameters by path, or a plan's updates.

    Raises:
        UsageError: each channel has several weights, as in a convolution over neighbours: closed forms know one.
    """
    weight = tensors[f"{site.tap}.weight"].detach()
    if weight[0, 0].numel() != 1:
        raise UsageError(
            f"site {site.name!r}: {site.tap!r} reads each channel at several places, {list(weight.shape[2:])}; "
            "only linears and convolutions of one place can be solved for"
        )
    return weight.flatten(1).double().cpu()


def updated_reader(
    site: Site, new: Tensor, shift: Tensor, parameters: Mapping[str, Tensor], *, only_bias: bool = False
) -> dict[str, Tensor]:
    """Write a new weight [out, channels] and what its bias takes over, [out], as parameters of the reader."""
    weight, bias = f"{site.tap}.weight", f"{site.tap}.bias"
    updates = {}
    if not only_bias:
        dense = parameters[weight].detach()
        updates[weight] = stored_like(dense, new.reshape(*new.shape, *dense.shape[2:]))
    if bias in parameters:
        dense = parameters[bias].detach()
        updates[bias] = stored_like(dense, dense.double().cpu() + shift)
    return updates


def reader_inputs(site: Site, sums: Sums, parameters: Mapping[str, Tensor]) -> Covariance:
    """Give the covariance of what is read of a site; not centred where no bias could take the mean over."""
    return covariance(site, sums, centred=f"{site.tap}.bias" in parameters)


def stored_like(dense: Tensor, value: Tensor) -> Tensor:
    """Give new weights the type of the old ones: half precision too, if those are float32 and fit into it.

    Weights that came from half precision files go back into such files; what rounding adds is about 1e-7 of the squared
    output. `passes.solve.written` counts it.
    """
    value = value.to(dense.dtype)
    if dense.dtype == torch.float32 and torch.equal(dense.half().float(), dense):
        rounded = value.half().float()
        return rounded if bool(torch.isfinite(rounded).all()) else value
    return value
