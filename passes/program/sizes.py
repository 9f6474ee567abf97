"""Replace symbolic sizes by small numbers that fit together, so that a part of a graph can run by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    expression, hints = value.node.expr, value.node.shape_env.backed_var_to_val
    values = {symbol: int(hints.get(symbol, SMALL)) for symbol in expression.free_symbols}
    if limit is not None:
        values = {symbol: min(size, limit) for symbol, size in values.items()}
    result = expression.xreplace(values)
    if isinstance(value, torch.SymBool):
        return bool(result)
    return float(result) if isinstance(value, torch.SymFloat) else int(result)


def concrete_shape(value: Tensor, limit: int | None = SMALL) -> tuple[int, ...]:
    """Evaluate a tensor's shape; see `concrete_size`."""
    return tuple(concrete_size(size, limit) for size in value.shape)
