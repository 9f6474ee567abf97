"""Propagate shapes through a program without computing anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

from passes.program import Program


def propagate_shapes(program: Program) -> dict[fx.Node, Any]:
    """Run the graph on the placeholders' fake tensors, dynamic sizes and all.

    Args:
        program: its placeholders have `meta["val"]`; other nodes need none.

    Returns:
        What every node gives: fake tensors, symbolic sizes, tuples of them. `meta` is left alone.

    Raises:
        Whatever an operator raises when its inputs don't fit.
    """
    mode = _mode(program)
    fakes: dict[int, Tensor] = {}

    def fake(value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
            if id(value) not in fakes:
                fakes[id(value)] = mode.from_tensor(value, static_shapes=True)
            return fakes[id(value)]
        return value

    found: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            found[node] = node.meta["val"]
        elif node.op == "output":
            found[node] = fx.node.map_arg(node.args[0], lambda arg: found[arg])
        else:
            found[node] = _run(program, node, found, mode, fake)
    return found


def _mode(program: Program) -> FakeTensorMode:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


def _run(program: Program, node: fx.Node, found: dict[fx.Node, Any], mode: FakeTensorMode, fake: Any) -> Any:
    if node.op == "get_attr":
        value: Any = program.graph_module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return fake(value)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: found[arg])
    with mode, torch.no_grad():
        if node.op == "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        module = program.module(str(node.target))
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return torch.func.functional_call(module, tree_map(fake, tensors), args, kwargs)
