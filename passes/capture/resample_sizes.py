"""Trace up-sampling by two as up-sampling to the size that was halved before.

A network that halves a picture of 9 gets 5, and doubling that gives 10: no size to be joined with what was kept of the
9. Models that draw such pictures all the same give the size instead of the factor, in a branch of their own Python,
and a trace fixes whichever branch its example took. Up-sampling to the kept size is the same operator with the same
values where the factor is two, so that one graph serves both branches.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from passes.program.sizes import concrete

_HALVING = frozenset(
    getattr(module, name)
    for module, name in (
        (torch, "conv2d"),
        (functional, "avg_pool2d"),
        (functional, "max_pool2d"),
    )
)
Key = tuple[int, ...]
_INTERPOLATE = inspect.signature(functional.interpolate)


class ResampleSizes(TorchFunctionMode):
    """Remember, while a module is traced, which size each halved size came from, and double back to it.

    Attributes:
        count: how many times an up-sampling was given a size.
        factor: the most that a size was divided by, in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._halved_from: dict[Key, tuple[Any, Any]] = {}
        self._factors: dict[Key, int] = {}
        self.count, self.factor = 0, 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.interpolate:
            args, kwargs = self._sized(args, kwargs)
        result = func(*args, **kwargs)
        if func in _HALVING:
            self._remember(args[0] if args else kwargs["input"], result)
        return result

    def _remember(self, before: Tensor, after: Tensor) -> None:
        if before.dim() != 4 or after.dim() != 4:
            return
        large, small = before.shape[2:], after.shape[2:]
        halved = all(concrete(new) == (concrete(old) + 1) // 2 for new, old in zip(small, large, strict=True))
        if halved and any(concrete(size) > 1 for size in large):
            key = _key(small)
            self._halved_from[key] = (large[0], large[1])
            self._factors[key] = 2 * self._factors.get(_key(large), 1)
            self.factor = max(self.factor, self._factors[key])

    def _sized(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = _INTERPOLATE.bind(*args, **kwargs).arguments
        source = given["input"]
        if given.get("scale_factor") not in (2, 2.0) or given.get("mode", "nearest") != "nearest" or source.dim() != 4:
            return args, kwargs
        kept = self._halved_from.get(_key(source.shape[2:]))
        if kept is None or all(isinstance(size, int) for size in kept):
            return args, kwargs
        # compare numbers: comparing symbols would add a guard that binds the graph to the outcome
        if any(concrete(new) != 2 * concrete(old) for new, old in zip(kept, source.shape[2:], strict=True)):
            return args, kwargs
        self.count += 1
        return (source,), {"size": kept, "mode": "nearest"}


def _key(sizes: Any) -> Key:
    # The example's numbers: one size has many names once inputs of several resolutions are added to it.
    return tuple(concrete(size) for size in sizes)
