"""A few inputs of the denoiser, kept while it is calibrated: what a site's weight in the prediction is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

# So many calls at most, and so many samples of each: at all timesteps, from all over the calibration set.
PROBES = 32
ROWS = 4


class Probes:
    """Keep every n-th call's inputs, n doubling whenever they become too many. Which ones depends on the calls alone.

    Args:
        limit: calls to keep at most; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        self._calls = 0
        self._stride = 1

    def offer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], prediction: Tensor) -> None:
        """Look at one call; `prediction` tells its batch."""
        if not self.limit:
            return
        call, self._calls = self._calls, self._calls + 1
        if call % self._stride:
            return
        self._kept[call] = _rows((args, dict(kwargs)), len(prediction), call // self._stride)
        while len(self._kept) > self.limit:
            self._stride *= 2
            self._kept = {call: leaves for call, leaves in self._kept.items() if call % self._stride == 0}

    def read(self) -> tuple[tuple[Tensor, ...], ...]:
        """Give the kept inputs in the order of their calls, each the flat list of its tensors."""
        return tuple(self._kept.values())

    def write(self, probes: tuple[tuple[Tensor, ...], ...], calls: int) -> None:
        """Go on from what `read` gave after so many calls."""
        self._calls, self._stride = calls, 1
        while self.limit and len(range(0, calls, self._stride)) > self.limit:
            self._stride *= 2
        self._kept = dict(zip(range(0, calls, self._stride), probes, strict=False)) if self.limit else {}

    def clear(self) -> None:
        """Forget everything."""
        self.write((), 0)


def _rows(inputs: Any, batch: int, turn: int) -> tuple[Tensor, ...]:
    """Take a few samples of a batch, other ones at each turn; a tensor that isn't batched is taken whole."""
    chosen = torch.tensor([(turn + row * batch // min(ROWS, batch)) % batch for row in range(min(ROWS, batch))])
    leaves = []
    for leaf in tree_leaves(inputs):
        value = torch.as_tensor(leaf).detach()
        batched = value.dim() > 0 and len(value) == batch
        leaves.append((value[chosen.to(value.device)] if batched else value).cpu().clone())
    return tuple(leaves)
