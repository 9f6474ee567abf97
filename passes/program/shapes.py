"""Propagate shapes through a program without computing anything: on meta tensors, at the example's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from passes.program.guards import check_inputs
from passes.program.program import Program
from passes.program.sizes import concrete
from passes.program.torch_private import tree_flatten, tree_map

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
    # the graph names the device that it was captured on; shapes are propagated on "meta" whatever that is
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


def specialize(
    program: Program, args: tuple[Any, ...] | None = None, kwargs: Mapping[str, Any] | None = None
) -> Program:
    """Give the program at the sizes of some inputs: every shape in it is numbers, nothing is dynamic.

    It computes what the program computes at these sizes; parameters are shared.

    Args:
        program: a program; it is left as it is.
        args: inputs of the sizes that are wanted; the traced ones if None.
        kwargs: likewise.

    Raises:
        UsageError: the program doesn't hold for these sizes, or they are of other inputs than its own.
    """
    if args is None:
        args, kwargs = program.args, program.kwargs
    kwargs = dict(kwargs or {})
    check_inputs(program.graph_module, program.guards, args, kwargs)
    fixed = replace(program.copy(), args=args, kwargs=kwargs, dynamic_shapes=None, guards=())
    set_shapes(fixed, tree_flatten((args, kwargs))[0])
    return fixed


def set_shapes(program: Program, inputs: Sequence[Any]) -> None:
    """Write into every node the shape that it has for these inputs, one for each placeholder; meta tensors."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, value in zip(placeholders, inputs, strict=True):
        node.meta["val"] = _on_meta(value)
    for node, value in propagate_shapes(program).items():
        node.meta["val"] = tree_map(_on_meta, value)


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
