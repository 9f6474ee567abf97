"""A few inputs of the denoiser, kept while it is calibrated: what a site's weight in the prediction is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from passes.program.torch_private import tree_leaves

# So many calls at most, and so many samples of each: at all timesteps, from all over the calibration set.
PROBES = 32
ROWS = 4


class Probes:
    """Keep every n-th call's inputs, n doubling whenever they become too many. Which ones depends on the calls alone.

    Calls are counted on from 0. Where a calibration is shared between processes, each names the calls it makes by their
    place in the whole: what they keep is together what one process would have kept.

    Args:
        limit: calls to keep at most; 0 keeps nothing.

    Attributes:
        call: number of the next call.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.call = 0
        self._kept: dict[int, tuple[Tensor, ...]] = {}

    def offer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], prediction: Tensor) -> None:
        """Look at one call; `prediction` tells its batch."""
        call, self.call = self.call, self.call + 1
        stride = self._stride(call)
        if not self.limit or call % stride:
            return
        self._kept[call] = _rows((args, dict(kwargs)), len(prediction), call // stride)
        self._kept = self.kept(self.call)

    def kept(self, calls: int) -> dict[int, tuple[Tensor, ...]]:
        """Give what is kept once so many calls were made in all: by call, the flat list of its tensors."""
        stride = self._stride(calls)
        return {call: leaves for call, leaves in self._kept.items() if call % stride == 0}

    def read(self) -> tuple[tuple[Tensor, ...], ...]:
        """Give the kept inputs in the order of their calls, each the flat list of its tensors."""
        return tuple(self.kept(self.call).values())

    def write(self, probes: tuple[tuple[Tensor, ...], ...], calls: Sequence[int]) -> None:
        """Go on from what `read` gave after the calls of these ascending numbers."""
        self.call = calls[-1] + 1 if calls else 0
        stride = self._stride(self.call)
        kept = [call for call in calls if call % stride == 0] if self.limit else []
        self._kept = dict(zip(kept, probes, strict=False))

    def clear(self) -> None:
        """Forget everything."""
        self.write((), ())

    def _stride(self, calls: int) -> int:
        """Give n after so many calls: the smallest power of 2 that leaves few enough of them."""
        stride = 1
        while self.limit and len(range(0, calls, stride)) > self.limit:
            stride *= 2
        return stride


def _rows(inputs: Any, batch: int, turn: int) -> tuple[Tensor, ...]:
    """Take a few samples of a batch, other ones at each turn; a tensor that isn't batched is taken whole."""
    chosen = torch.tensor([(turn + row * batch // min(ROWS, batch)) % batch for row in range(min(ROWS, batch))])
    leaves = []
    for leaf in tree_leaves(inputs):
        value = torch.as_tensor(leaf).detach()
        batched = value.dim() > 0 and len(value) == batch
        leaves.append((value[chosen.to(value.device)] if batched else value).cpu().clone())
    return tuple(leaves)
