"""Second moments while they grow: rows wait until a product over many of them is worth it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from passes.calibrate.moments import FIRST, fold, halved_sites

# A wide site's sum of squares is far larger than the rows of one forward: what makes it cheap is adding to it rarely.
WAITING_BYTES = 2**29
Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
Storage = Callable[[tuple[int, ...]], Tensor]


class MomentSums:
    """The second moments of all sites, and the sampled tokens that are not in them yet.

    Args:
        shapes: by site name, the shapes of its sums (see `passes.calibrate.moments`).
        storage: makes a zero float64 tensor of a shape, for sums that shall live elsewhere than in memory. Those stay
            where they are; others move to the device that the activations are on.

    Attributes:
        sums: by site and name.
        halves: the same over the odd half of the calibration set, of some sites.
        whole: nothing was added since the last `settle`. Rows that wait can then be forgotten without a trace.
    """

    def __init__(self, shapes: Shapes, storage: Storage | None = None) -> None:
        make = storage or _zeros
        self.sums = {site: {name: make(shape) for name, shape in each.items()} for site, each in shapes.items()}
        halved = halved_sites(shapes)
        self.halves = {site: {name: _zeros(shape) for name, shape in shapes[site].items()} for site in halved}
        self.whole = True
        self._stays = storage is not None
        self._waiting: dict[str, list[tuple[dict[str, Tensor], bool]]] = {}
        self._bytes = 0

    def add(self, site: str, rows: Mapping[str, Tensor], *, odd: bool) -> None:
        """Take sampled tokens, as `passes.calibrate.moments.fold` does; `odd` counts them to that half too."""
        with torch.inference_mode(False):
            kept = {name: values.clone() if values.is_inference() else values for name, values in rows.items()}
        self._waiting.setdefault(site, []).append((kept, odd))
        self._bytes += sum(values.numel() * values.element_size() for values in kept.values())
        if self._bytes > WAITING_BYTES:
            self._fold()
            self.whole = False

    def settle(self) -> None:
        """Add all that waits."""
        self._fold()
        self.whole = True

    def forget_waiting(self) -> None:
        """Drop the rows that wait."""
        self._waiting, self._bytes = {}, 0

    def write(self, sums: Mapping[str, Mapping[str, Tensor]], halves: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replace all sums by others of the same shapes."""
        self.forget_waiting()
        self.whole = True
        for own, given in ((self.sums, sums), (self.halves, halves)):
            for site, each in own.items():
                for name, values in each.items():
                    values.copy_(given[site][name])

    def clear(self) -> None:
        """Set all sums to zero."""
        self.forget_waiting()
        self.whole = True
        for own in (self.sums, self.halves):
            for each in own.values():
                for values in each.values():
                    values.zero_()

    def _fold(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for site, waiting in self._waiting.items():
                self._fold_into(self.sums, site, [rows for rows, _ in waiting], stays=self._stays)
                if site in self.halves:
                    self._fold_into(self.halves, site, [rows for rows, odd in waiting if odd], stays=False)
        self.forget_waiting()

    @staticmethod
    def _fold_into(
        sums: dict[str, dict[str, Tensor]], site: str, parts: list[dict[str, Tensor]], *, stays: bool
    ) -> None:
        if not parts:
            return
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        own, device = sums[site][FIRST].device, joined[FIRST].device
        if own != device and stays:
            joined = {name: values.to(own) for name, values in joined.items()}
        elif own != device:
            sums[site] = {name: values.to(device) for name, values in sums[site].items()}
        fold(sums[site], joined)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
