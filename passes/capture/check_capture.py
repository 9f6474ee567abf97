"""Show that a captured graph is the module's own function, without running either at full size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from passes.errors import CaptureError, UsageError
from passes.program.fresh_inputs import small_input
from passes.program.program import Program
from passes.program.torch_private import tree_flatten

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


def check_capture(module: nn.Module, program: Program, same: Callable[[], bool]) -> None:
    """Refuse a graph that computes something else than its module.

    At the example's sizes it is enough that both apply the same operators to the same parameters; that takes no
    arithmetic. What such a comparison can't see (random numbers, state, hooks that change values) shows in the results,
    bit for bit, at any size: so both run on a small input. Where one of the two says no, the results at the example's
    sizes decide.

    Args:
        module: what was captured, in evaluation mode.
        program: the graph.
        same: tells whether both do the same at the example's sizes.

    Raises:
        CaptureError: the results differ, or the module's own aren't finite.
    """
    small = _small(program)
    if small is not None and _difference(module, program, small) == 0 and same():
        return
    difference = _difference(module, program, (program.args, program.kwargs))
    if difference:
        raise CaptureError(
            f"the captured graph differs from {type(module).__name__} by {difference:.2g} on the example inputs; the "
            "model does something that export does not see: hooks, random numbers, state"
        )


def _small(program: Program) -> Inputs | None:
    """Make a small input, or None where the graph takes no smaller one than the example."""
    try:
        args, kwargs = small_input(program)
    except UsageError:
        return None
    return (args, kwargs) if _elements(args, kwargs) < _elements(program.args, program.kwargs) else None


def _elements(args: Any, kwargs: Any) -> int:
    return sum(leaf.numel() for leaf in tree_flatten((args, dict(kwargs)))[0] if isinstance(leaf, Tensor))


def _difference(module: nn.Module, program: Program, inputs: Inputs) -> float:
    args, kwargs = inputs
    with torch.no_grad():
        expected = tree_flatten(module(*args, **kwargs))[0]
        found = tree_flatten(program.graph_module(*args, **kwargs))[0]
    worst = 0.0
    for left, right in zip(expected, found, strict=True):
        if not torch.isfinite(left).all():
            raise CaptureError(
                "the model's own output on random inputs is not finite; check its weights, or use bf16 or fp32 where "
                "fp16 overflows"
            )
        if not torch.equal(left, right):
            worst = max(worst, (left - right).abs().max().item()) or float("nan")
    return worst
