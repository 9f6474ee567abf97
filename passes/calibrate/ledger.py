"""Where observers add up: all sums of a program in one tensor, taken over forward by forward or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from passes.calibrate.moment_sums import MomentSums, Shapes, Storage
from passes.calibrate.moments import FIRST, KEY, KEY_COUNT
from passes.calibrate.statistics import COUNT
from passes.calibrate.token_sampling import sampled_tokens
from passes.errors import CalibrationError


class Ledger:
    """The sums of all finished forwards, and what the running one has recorded so far.

    One float64 tensor holds a row for each timestep bucket; its columns are every site's sums, then every site's token
    count, then samples and calls. A finished forward is taken over by one addition: an interrupt (Ctrl-C) finds the
    sums as before a forward or as after it, never in between, and one sum tells whether a whole forward was finite.

    Second moments, where they are taken, are tensors of their own: too large to be copied at each forward. Sampled
    tokens are handed to them while interrupts wait.

    Args:
        layout: by site name, its units and the names of its statistics.
        buckets: timestep buckets.
        moments: by site name, the shapes of its sums (see `passes.calibrate.moments`); empty where none are taken.
        weights: how much a token counts in the moments, by its timestep's bucket; None weighs all alike.
        storage: where the moments live, see `passes.calibrate.moment_sums`.

    Attributes:
        moments: the second moments.
        odd: whether the running forward belongs to the odd half of the calibration set. Of some sites the sums of that
            half are kept too, to see whether both halves say the same.
    """

    def __init__(
        self,
        layout: Mapping[str, tuple[int, Sequence[str]]],
        buckets: int,
        moments: Shapes | None = None,
        weights: Sequence[float] | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.layout = {site: (units, tuple(names)) for site, (units, names) in layout.items()}
        self.buckets = buckets
        columns = sum(units * len(names) for units, names in self.layout.values()) + len(self.layout) + 2
        self._total = torch.zeros(buckets, columns, dtype=torch.float64)
        self._rows: list[int] = []
        self._values: dict[str, list[Tensor]] = {}
        self._tokens: dict[str, int] = {}
        self.moments = MomentSums(moments or {}, storage)
        self.odd = False
        self.weights = tuple(weights) if weights is not None else (1.0,) * buckets
        self.timesteps: list[float] = []
        self._sampled: dict[str, dict[str, Tensor]] = {}
        self._weights: dict[tuple[int, int, torch.device], Tensor] = {}
        self._positions: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def begin(self, rows: list[int], timesteps: list[float]) -> None:
        """Start a forward, forgetting one that didn't finish.

        Args:
            rows: the bucket of each sample, or one bucket for all.
            timesteps: the timestep of each sample, or one for all.
        """
        self._rows, self._values, self._tokens = rows, {}, {}
        self.timesteps, self._sampled, self._weights, self._positions = timesteps, {}, {}, {}

    def record(self, site: str, values: list[Tensor], tokens: int) -> None:
        """Note what a site's observer measured in the running forward.

        Args:
            site: its name.
            values: a tensor [B, units] for each of its statistics.
            tokens: how many tokens of each sample they sum.

        Raises:
            CalibrationError: as many timesteps as no reading of the batch explains.
        """
        if len(self._rows) not in (1, len(values[0])):
            raise CalibrationError(
                f"site {site!r} runs {len(values[0])} samples on {len(self._rows)} timesteps: "
                "give one timestep, or one for each sample"
            )
        self._values[site], self._tokens[site] = values, tokens

    def positions(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Choose the tokens that second moments take in the running forward.

        Returns:
            int64 [S, 1] and [S, k]: samples and their tokens, by which [B, tokens, ...] is indexed; S is B, or 1 where
            all samples have one timestep and so the same tokens.
        """
        place = (tokens, device)
        if place not in self._positions:
            steps = self.timesteps[:1] if len(set(self.timesteps)) == 1 else self.timesteps
            chosen = torch.tensor([sampled_tokens(tokens, step) for step in steps], device=device)
            self._positions[place] = torch.arange(len(chosen), device=device).unsqueeze(1), chosen
        return self._positions[place]

    def sample(self, site: str, rows: dict[str, Tensor], tokens: int, keys: int) -> None:
        """Note the tokens that a site's observer sampled in the running forward, for its second moments.

        Args:
            site: its name.
            rows: as `passes.calibrate.moments.fold` takes them, without the weights, which are added here.
            tokens: how many of the activation's tokens were taken of each sample.
            keys: how many keys of each sample.
        """
        for name, taken, values in ((COUNT, tokens, rows.get(FIRST)), (KEY_COUNT, keys, rows.get(KEY))):
            if values is not None:
                rows[name] = self._weigh(len(values) // taken, taken, values.device)
        self._sampled[site] = rows

    def _weigh(self, samples: int, taken: int, device: torch.device) -> Tensor:
        """Give the weight of each sampled token, float64 [samples * taken]; sites share it."""
        place = (samples, taken, device)
        if place not in self._weights:
            weights = torch.tensor([self.weights[row] for row in self._rows], dtype=torch.float64)
            self._weights[place] = weights.expand(samples).repeat_interleave(taken).to(device)
        return self._weights[place]

    def commit(self) -> None:
        """Take the running forward over into the sums.

        Raises:
            CalibrationError: an activation was not finite; names the first such site. The sums stay as they were.
        """
        values = torch.cat([value for site in self.layout for value in self._values[site]], dim=1)
        samples = len(values)
        tail = torch.tensor([[*(self._tokens[site] for site in self.layout), 1, 0]], dtype=torch.float64)
        same = len(set(self._rows)) == 1
        if same:
            added = torch.cat([values.sum(0, dtype=torch.float64), samples * tail[0].to(values.device)])
        else:
            # A matrix product, not index_add: on GPUs that one adds in no fixed order, and resuming is bit for bit.
            chosen = torch.tensor([self._rows]) == torch.arange(self.buckets).unsqueeze(1)
            rows = torch.cat([values.double(), tail.expand(samples, -1).to(values.device)], dim=1)
            added = chosen.to(values.device).double() @ rows
        if not bool(torch.isfinite(added.sum())):
            self._blame()
        added.view(-1)[-1] += 1  # calls: the last column, in whichever row
        if self._total.device != added.device:
            self._place(self._total.to(added.device))
        with uninterrupted() if self._sampled else nullcontext():
            for site, sampled in self._sampled.items():
                self.moments.add(site, sampled, odd=self.odd)
            (self._total[self._rows[0]] if same else self._total).add_(added)
        self._sampled = {}

    def _blame(self) -> None:
        for site, values in self._values.items():
            if not all(bool(torch.isfinite(value).all()) for value in values):
                raise CalibrationError(
                    f"site {site!r} has activations that are not finite: look for NaN or infinite weights and inputs, "
                    "or calibrate in float32 or bfloat16 if float16 overflows"
                )

    def _place(self, total: Tensor) -> None:
        # A plain tensor: one made in inference mode can't be added to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._total = total.clone()

    def _parts(self, total: Tensor) -> Iterator[tuple[str, str, Tensor]]:
        """Walk over site, statistic and the view of its columns, counts included."""
        start, first_count = 0, total.shape[1] - 2 - len(self.layout)
        for index, (site, (units, names)) in enumerate(self.layout.items()):
            for name in names:
                yield site, name, total[:, start : start + units]
                start += units
            yield site, COUNT, total[:, first_count + index]

    def read(self) -> tuple[dict[str, dict[str, Tensor]], int, int]:
        """Copy the sums of all finished forwards to the CPU: as `Statistics.sites`, then samples and calls."""
        sites: dict[str, dict[str, Tensor]] = {site: {} for site in self.layout}
        with torch.inference_mode(False):
            total = self._total.cpu()
            for site, name, view in self._parts(total):
                sites[site][name] = view.clone(memory_format=torch.contiguous_format)
            return sites, int(total[:, -2].sum()), int(total[:, -1].sum())

    def write(self, sites: Mapping[str, Mapping[str, Tensor]], samples: int, calls: int) -> None:
        """Replace the sums, second moments apart, by others of the same layout, as `read` gives them."""
        total = torch.zeros(self._total.shape, dtype=torch.float64)
        for site, name, view in self._parts(total):
            view.copy_(sites[site][name])
        total[0, -2], total[0, -1] = samples, calls
        self._place(total.to(self._total.device))

    def clear(self) -> None:
        """Set all sums to zero."""
        self.moments.clear()
        self._place(torch.zeros_like(self._total))


# Ctrl-C, and what launchers end a process with.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and a request to terminate back for the duration of a block, and act on them afterwards.

    Python delivers them to the main thread only; elsewhere there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: waiting.append(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
