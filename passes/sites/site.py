"""Where units can be removed: facts keyed by module paths, so that they outlive any graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["out", "in", "channels"]


@dataclass(frozen=True)
class Slice:
    """The channels of one module that a site's units have there: unit u has `per_unit` of them, in order.

    Attributes:
        path: the module's dotted path.
        side: "out": rows of a linear or output channels of a convolution; "in": columns or input channels; "channels":
            of a parameter with one number for each channel on its last axis (a norm's, an embedding's).
        start: where the first unit's channels begin. A separate query projection has one slice from 0; a GEGLU
            projection of n neurons has two, from 0 and n; a fused q-k-v projection of width C three, from 0, C, 2C.
        per_unit: channels of one unit there.
    """

    path: str
    side: Side
    start: int = 0
    per_unit: int = 1


@dataclass(frozen=True)
class Site:
    """What can be removed together, and in which modules: one attention, one feed-forward.

    Attributes:
        name: dotted path that the site's modules have in common; unique in a program.
        kind: name of its kind, see `passes.sites.kinds`.
        units: how many there are: heads, neurons.
        slices: where the units are; what writes them in the order of the graph, then what reads them.
        tap: path of the module that reads the units: what enters it is what is observed.
    """

    name: str
    kind: str
    units: int
    slices: tuple[Slice, ...]
    tap: str

    @property
    def reader(self) -> Slice:
        """The slice of what reads the units, at the tap."""
        return next(each for each in self.slices if each.path == self.tap and each.side == "in")

    @property
    def writers(self) -> tuple[Slice, ...]:
        """The slices of what makes the units."""
        return tuple(each for each in self.slices if each.side == "out")

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the site's modules, each once, the reader last."""
        return (*(path for path in dict.fromkeys(each.path for each in self.slices) if path != self.tap), self.tap)

    @property
    def unit_width(self) -> int:
        """Channels of one unit where it is read: the head dimension, or 1."""
        return self.reader.per_unit

    @property
    def width(self) -> int:
        """Channels that are read."""
        return self.units * self.unit_width

    def channels(self, kept: Tensor, width: int | None = None) -> Tensor:
        """Mark the channels that are still read, bool [units * unit_width]: of a kept unit all, or the first `width`.

        Args:
            kept: bool [units]; True keeps.
            width: channels that stay of a kept unit; None for all.
        """
        return _marked(self.unit_width, kept, width)

    def columns(self, kept: Tensor, width: int | None = None) -> Tensor:
        """Give those channels' numbers, int64; arguments as `channels` takes them."""
        return self.channels(kept, width).nonzero().flatten()

    def gone(self, kept: Tensor, width: int | None = None) -> dict[tuple[str, Side], Tensor]:
        """Give the channels that go, as `channels_gone`; arguments as `channels` takes them."""
        return channels_gone(self.slices, kept, width)


def _marked(per_unit: int, kept: Tensor, width: int | None) -> Tensor:
    first = torch.arange(per_unit) < (per_unit if width is None else width)
    return (kept.unsqueeze(1) & first).flatten()


def channels_gone(slices: Iterable[Slice], kept: Tensor, width: int | None = None) -> dict[tuple[str, Side], Tensor]:
    """Give the channels that go where some slices are, by module and side, int64, ascending.

    Args:
        slices: of one site.
        kept: bool [units]; True keeps.
        width: channels that stay of a kept unit; None for all.
    """
    found: dict[tuple[str, Side], list[Tensor]] = {}
    for each in slices:
        channels = (~_marked(each.per_unit, kept, width)).nonzero().flatten() + each.start
        found.setdefault((each.path, each.side), []).append(channels)
    return {place: torch.unique(torch.cat(parts)) for place, parts in found.items()}


def axis_of(side: Side, rank: int) -> int | None:
    """Say which axis of a module's parameter of that rank a side's channels are on; None if they aren't in it.

    So weights lie in linears and convolutions, [out, in, ...], with biases [out]; in norms, [channels]; and in
    embeddings, [rows, channels].
    """
    if side == "channels":
        return rank - 1
    if side == "out":
        return 0
    return 1 if rank > 1 else None


def axes_gone(path: str, rank: int, gone: Mapping[tuple[str, Side], Tensor]) -> dict[int, Tensor]:
    """Give the channels that go from a module's parameter of that rank, by axis; `gone` as `Site.gone` gives it."""
    found = {}
    for (place, side), channels in gone.items():
        axis = axis_of(side, rank)
        if place == path and axis is not None:
            found[axis] = channels
    return found


def staying(size: int, gone: Tensor) -> Tensor:
    """Give the channels of an axis of that size that stay, int64."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().flatten()


def without(value: Tensor, gone: Mapping[int, Tensor]) -> Tensor:
    """Copy a parameter without some channels, given by axis as `axes_gone` does; with none gone it is given back."""
    for axis, channels in gone.items():
        value = value.index_select(axis, staying(value.shape[axis], channels).to(value.device))
    return value


@dataclass(frozen=True)
class Unsupported:
    """Something that looks like a site and is left whole.

    Attributes:
        name: dotted path.
        kind: what it would have been.
        reason: one sentence.
    """

    name: str
    kind: str
    reason: str
