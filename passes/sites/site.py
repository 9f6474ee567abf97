"""Where units can be removed: facts keyed by module paths, so that they outlive any graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["attention", "feed_forward"]


@dataclass(frozen=True)
class Producer:
    """A linear that loses output rows with every removed unit.

    Attributes:
        path: the linear's dotted path.
        offsets: where each block of units starts in its output rows. A separate query projection has (0,); a GEGLU
            projection of n neurons (0, n); a fused q-k-v projection (0, C, 2C).
    """

    path: str
    offsets: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Site:
    """One attention or one feed-forward, and the linears that its units live in.

    Attributes:
        name: dotted path that the site's linears have in common; unique in a program.
        kind: "attention" (units are heads) or "feed_forward" (units are neurons).
        units: how many heads or neurons there are.
        unit_width: channels of one unit: the head dimension, or 1.
        producers: linears that lose rows (q, k, v; or up and gate).
        consumer: path of the linear that loses input columns (output or down projection).
    """

    name: str
    kind: Kind
    units: int
    unit_width: int
    producers: tuple[Producer, ...]
    consumer: str

    @property
    def width(self) -> int:
        """Channels that enter the consumer."""
        return self.units * self.unit_width

    @property
    def narrowable(self) -> bool:
        """Whether heads can be made narrower: query, key and value each have a linear of their own, in this order."""
        return self.kind == "attention" and [len(each.offsets) for each in self.producers] == [1, 1, 1]

    def channels(self, kept: Tensor, width: int | None = None) -> Tensor:
        """Mark the channels that stay, bool [units * unit_width]: of each kept unit all, or the first `width`.

        Args:
            kept: bool [units]; True keeps.
            width: channels that stay of a kept unit; None for all.
        """
        first = torch.arange(self.unit_width) < (self.unit_width if width is None else width)
        return (kept.unsqueeze(1) & first).flatten()

    def columns(self, kept: Tensor, width: int | None = None) -> Tensor:
        """Give the consumer's input channels that stay, int64; arguments as `channels` takes them."""
        return self.channels(kept, width).nonzero().flatten()

    def rows(self, producer: Producer, kept: Tensor, width: int | None = None) -> Tensor:
        """Give the producer's output rows that stay, int64, in order; arguments as `channels` takes them."""
        columns = self.columns(kept, width)
        return torch.cat([columns + offset for offset in producer.offsets])


@dataclass(frozen=True)
class Unsupported:
    """Something that looks like a site and is left whole.

    Attributes:
        name: dotted path.
        kind: what it would have been.
        reason: one sentence.
    """

    name: str
    kind: Kind
    reason: str
