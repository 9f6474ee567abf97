"""Take out of a program what computes nothing, before it is exported: fewer nodes to trace, translate and run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from passes.program.program import Program

aten = torch.ops.aten


def drop_identities(program: Program) -> Program:
    """Give the program without dropouts, division by one, casts to the dtype a tensor has, and idle squeezes.

    The squeezes also because ONNX's Squeeze, unlike PyTorch's, fails on a dimension that isn't 1.
    """
    cleaned = program.copy()
    for node in list(cleaned.graph.nodes):
        source = node.args[0] if node.args else None
        if node.op != "call_function" or node.target not in _IDLE or not isinstance(source, fx.Node):
            continue
        before, after = source.meta.get("val"), node.meta.get("val")
        same = (
            isinstance(before, torch.Tensor)
            and isinstance(after, torch.Tensor)
            and (before.dtype, before.device, before.dim()) == (after.dtype, after.device, after.dim())
        )
        if same and _IDLE[node.target](node):
            node.replace_all_uses_with(source)
            cleaned.graph.erase_node(node)
    cleaned.graph.lint()
    cleaned.graph_module.recompile()
    return cleaned


def _always(node: fx.Node) -> bool:
    return True


def _by_one(node: fx.Node) -> bool:
    return node.args[1] in (1, 1.0) and not node.kwargs


def _not_training(node: fx.Node) -> bool:
    return node.args[2] is False


# What each operator is an identity of, given that dtype and number of dimensions stay.
_IDLE: dict[object, Callable[[fx.Node], bool]] = {
    aten.dropout.default: _not_training,
    aten.div.Tensor: _by_one,
    aten.mul.Tensor: _by_one,
    aten.to.dtype: _always,
    aten.squeeze.dim: _always,
}
