"""Sizes in a graph: of a node, as numbers, and small ones that fit together, so that a part can run by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from passes.program.torch_private import captured_size, captured_values, expression

# No symbol becomes larger than this. A power of two, so that halved resolutions stay whole.
SMALL = 16


def concrete_size(value: Any, limit: int | None = SMALL) -> Any:
    """Evaluate a size with every symbol at its captured value, or at `limit` if that is less.

    Shapes stay consistent with each other: all are evaluated exactly, for the same values of the same symbols.

    Args:
        value: an int, a symbolic int, float or bool, or anything else, which is given back.
        limit: largest value of a symbol; None leaves the captured ones.
    """
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value
    written, hints = expression(value), captured_values(value)
    values = {symbol: int(hints.get(symbol, SMALL)) for symbol in written.free_symbols}
    if limit is not None:
        values = {symbol: min(size, limit) for symbol, size in values.items()}
    result = written.xreplace(values)
    if isinstance(value, torch.SymBool):
        return bool(result)
    return float(result) if isinstance(value, torch.SymFloat) else int(result)


def concrete_shape(value: Tensor, limit: int | None = SMALL) -> tuple[int, ...]:
    """Evaluate a tensor's shape; see `concrete_size`."""
    return tuple(concrete_size(size, limit) for size in value.shape)


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    """Give the shape of a tensor node: whole numbers and symbols. An empty tuple for anything but a tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_fixed(size: Any) -> bool:
    """Tell whether a size is one number, written as a number or as a symbol that turned out to be one."""
    return isinstance(size, int) or bool(expression(size).is_number)


def concrete(size: Any) -> int:
    """Give the example value of a size that may be symbolic."""
    if isinstance(size, int):
        return size
    hint = captured_size(size)
    return int(hint if hint is not None else size)


def sizes_of(node: fx.Node) -> tuple[int, ...]:
    """Give the shape of a tensor node at the captured example's sizes."""
    return tuple(concrete(size) for size in shape_of(node))
