"""Propagate shapes through a program without computing anything: on meta tensors, at the example's sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from passes.program.program import Program
from passes.program.sizes import concrete

_META = torch.device("meta")


def propagate_shapes(program: Program) -> dict[fx.Node, Any]:
    """Run the graph on tensors that have shapes and no data.

    Args:
        program: its placeholders have `meta["val"]`; other nodes need none.

    Returns:
        What every node gives: meta tensors, sizes, tuples of them. `meta` is left alone.

    Raises:
        RuntimeError: or whatever else an operator raises when its inputs don't fit.
    """
    found: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            found[node] = tree_map(_without_data, node.meta["val"])
        elif node.op == "output":
            found[node] = fx.node.map_arg(node.args[0], lambda arg: found[arg])
        else:
            found[node] = _run(program, node, found)
    return found


def _without_data(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty([concrete(size) for size in value.shape], dtype=value.dtype, device=_META)
    return value


def _run(program: Program, node: fx.Node, found: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        value: Any = program.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return _without_data(value)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: found[arg])
    # a graph has its device written down; here everything is on "meta", wherever it will run
    args, kwargs = tree_map(lambda value: _META if isinstance(value, torch.device) else value, (args, kwargs))
    with torch.no_grad():
        if node.op == "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        module = program.module(str(node.target))
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        shadows = {name: _without_data(tensor) for name, tensor in tensors.items()}
        return torch.func.functional_call(module, shadows, args, kwargs)
