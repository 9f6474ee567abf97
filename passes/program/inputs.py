"""The inputs of a program: their nodes, the traced ones as tensors, and what each free size of them stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from passes.errors import ExportError
from passes.program.program import Program
from passes.program.torch_private import expression, tree_flatten, tree_unflatten


def input_nodes(program: Program) -> list[fx.Node]:
    """Give the placeholders, in order."""
    return [node for node in program.graph.nodes if node.op == "placeholder"]


def example_tensors(program: Program) -> list[Tensor]:
    """Give the traced inputs, one tensor for each placeholder.

    Raises:
        ExportError: an input is no tensor.
    """
    leaves = tree_flatten((tuple(program.args), dict(program.kwargs)))[0]
    for leaf, node in zip(leaves, input_nodes(program), strict=True):
        if not isinstance(leaf, Tensor):
            raise ExportError(f"input {node.name!r} is a {type(leaf).__name__}, not a tensor; capture it without")
    return leaves


def call_flat(program: Program, tensors: Sequence[Tensor]) -> Tensor:
    """Call the program with one tensor for each placeholder."""
    args, kwargs = unflatten(program, tensors)
    return program(*args, **kwargs)


def unflatten(program: Program, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put one tensor for each placeholder back into the structure of the program's arguments."""
    spec = tree_flatten((tuple(program.args), dict(program.kwargs)))[1]
    args, kwargs = tree_unflatten(list(tensors), spec)
    return args, kwargs


def symbol_roles(program: Program) -> dict[Any, tuple[str, int]]:
    """Name what each symbol of the inputs' shapes stands for.

    Returns:
        symbol -> (role, traced value); roles are "batch", "height", "width", "size" (one symbol for both),
        "tokens", "tokens_2", ...
    """
    roles: dict[Any, tuple[str, int]] = {}
    token_counts: list[int] = []
    for node, example in zip(input_nodes(program), example_tensors(program), strict=True):
        value = node.meta["val"]
        for dim, size in enumerate(value.shape):
            if not isinstance(size, torch.SymInt):
                continue
            for symbol in expression(size).free_symbols:
                hint = _solve(expression(size), symbol, example.shape[dim])
                if symbol in roles:
                    if dim == 3 and roles[symbol][0] == "height":
                        roles[symbol] = ("size", hint)
                elif dim == 0:
                    roles[symbol] = ("batch", hint)
                elif value.dim() == 4 and dim >= 2:
                    roles[symbol] = ("height" if dim == 2 else "width", hint)
                else:
                    # A text and its mask have a symbol each, but one length.
                    if hint not in token_counts:
                        token_counts.append(hint)
                    number = token_counts.index(hint)
                    roles[symbol] = (f"tokens_{number + 1}" if number else "tokens", hint)
    return roles


def _solve(expression: Any, symbol: Any, value: int) -> int:
    """Give the symbol's value for which the expression has the traced value (2*s = 8 -> 4)."""
    import sympy

    if expression == symbol:
        return value
    solutions = sympy.solve(expression - value, symbol)
    return int(solutions[0]) if solutions else value
