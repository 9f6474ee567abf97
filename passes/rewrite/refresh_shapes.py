"""Bring `meta["val"]` up to date after units are gone, without asking the symbolic shape engine again.

Running fake tensors with symbolic sizes through a region takes a second a site. Unit counts are plain numbers in every
shape, so it is enough to run the region at one set of concrete sizes and see which dimensions came out different.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.errors import CouplingError
from passes.program.sizes import SMALL, concrete_shape, concrete_size
from passes.program.torch_private import FakeTensor, FakeTensorMode, tree_map


def refresh_shapes(module: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
    """Recompute `meta["val"]` of some nodes; what enters them is taken as it is.

    Args:
        module: the graph module, with its linears already sliced and its constants mended.
        nodes: in graph order.

    Raises:
        CouplingError: the nodes don't fit together any more, or a dimension changed that is no plain number.
    """
    for limit in (SMALL, None):
        try:
            shapes = _run(module, nodes, limit)
            break
        except Exception as error:  # operators raise whatever they like on shapes that don't fit
            failure = error
    else:
        raise CouplingError(
            f"after the removal the nodes before {nodes[-1].target!r} don't fit together ({failure}); "
            "leave this site whole"
        ) from failure
    for node in nodes:
        merge = functools.partial(_merged, node, limit=limit)
        node.meta["val"] = tree_map(merge, node.meta["val"], shapes[node])


def _run(module: fx.GraphModule, nodes: Sequence[fx.Node], limit: int | None) -> dict[fx.Node, Any]:
    values: dict[fx.Node, Any] = {}

    def value_of(node: fx.Node) -> Any:
        if node not in values:
            values[node] = tree_map(lambda leaf: _empty(leaf, limit), node.meta["val"])
        return values[node]

    with FakeTensorMode() as mode, torch.no_grad():
        for node in nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
            if node.op == "call_module":
                values[node] = _call(mode, module.get_submodule(str(node.target)), args, kwargs)
            else:
                assert callable(node.target)
                values[node] = node.target(*args, **kwargs)
    return {node: values[node] for node in nodes}


def _empty(leaf: Any, limit: int | None) -> Any:
    if isinstance(leaf, Tensor):
        return torch.empty(concrete_shape(leaf, limit), dtype=leaf.dtype, device=leaf.device)
    return concrete_size(leaf, limit)


def _call(mode: FakeTensorMode, module: nn.Module, args: Any, kwargs: Any) -> Any:
    state: dict[str, Tensor] = {
        name: mode.from_tensor(value) for name, value in module.state_dict(keep_vars=True).items()
    }
    return torch.func.functional_call(module, state, args, kwargs)


def _merged(node: fx.Node, old: Any, new: Any, limit: int | None) -> Any:
    """Take the symbols of the old shape and the numbers of the new one."""
    if not isinstance(old, Tensor):
        return old
    before, after = concrete_shape(old, limit), tuple(new.shape)
    if before == after:
        return old
    if len(before) != len(after):
        raise CouplingError(f"{node.name!r} has {len(after)} dimensions after the removal, {len(before)} before")
    if any(was != now and not isinstance(size, int) for size, was, now in zip(old.shape, before, after, strict=True)):
        return _ask_symbols(node, old, after, limit)
    shape = [size if was == now else now for size, was, now in zip(old.shape, before, after, strict=True)]
    # Lay it out as the operator did: dimensions in the order of their strides.
    order = sorted(range(len(shape)), key=lambda axis: (-new.stride(axis), axis))
    mode = getattr(old, "fake_mode", None)
    if mode is None:
        return torch.empty([int(size) for size in after], dtype=old.dtype, device="meta")
    with mode:
        result = torch.empty([shape[axis] for axis in order], dtype=old.dtype, device=old.device)
        return result if order == sorted(order) else result.permute([order.index(axis) for axis in range(len(order))])


def _ask_symbols(node: fx.Node, old: Tensor, after: tuple[int, ...], limit: int | None) -> Tensor:
    """Compute one node's shape with symbols, as units are part of a dynamic size: a mask repeated for each head."""
    if node.op != "call_function" or not callable(node.target) or not isinstance(old, FakeTensor):
        raise CouplingError(f"{node.name!r}: the removal changed a dynamic size; leave its site whole")
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda parent: parent.meta["val"])
    with old.fake_mode, torch.no_grad():
        result = node.target(*args, **kwargs)
    if not isinstance(result, Tensor) or concrete_shape(result, limit) != after:
        raise CouplingError(f"{node.name!r}: its shape after the removal can't be told; leave its site whole")
    return result
