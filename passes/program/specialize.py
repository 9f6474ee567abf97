"""Fix a program's sizes: the same graph, holding for one set of inputs only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from passes.program.guards import check_inputs
from passes.program.program import Program
from passes.program.shapes import propagate_shapes


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
        node.meta["val"] = _without_data(value)
    for node, value in propagate_shapes(program).items():
        node.meta["val"] = tree_map(_without_data, value)


def _without_data(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
