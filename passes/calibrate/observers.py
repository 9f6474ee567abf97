"""Measure what each unit carries while the program runs: modules that look at tensors and leave them as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from passes.calibrate.ledger import Ledger
from passes.calibrate.moments import FIRST, KEY, QUERY
from passes.calibrate.token_sampling import sampled_positions
from passes.program.torch_private import FakeTensor
from passes.sites.kinds import kind_of
from passes.sites.site import Site

# Elements that are summed at once on a CPU. Intermediate values of a large activation would go out to memory and back,
# into pages that the system has to hand out first: 20 times the cost of those that stay in the cache.
BLOCK = 2**19
_NEVER = -1e4  # exp of it is 0 in float32 and float64, and 0 times it is 0, not NaN


@dataclass(frozen=True)
class Weighing:
    """How the attention of a site weighs its keys: what its SDPA call was given beside query, key and value.

    Attributes:
        scale: factor on the scores; None is 1/√(head dimension).
        causal: whether a query sees only keys up to its own position.
    """

    scale: float | None = None
    causal: bool = False


class UnitObserver(nn.Module):
    """Add up a site's statistics over the tokens of each sample, into the timestep's bucket.

    Sums over one sample's tokens are float32 (float64 for a float64 program; torch sums pairwise), everything across
    samples is float64. The sums live in the `Ledger`, outside the state dict, so that casting the program doesn't touch
    them. A subclass names its statistics and measures them; the base records them.

    Args:
        site: the site to watch.
        weighing: how an attention site weighs its keys; None where that is unknown or the site is no attention.
    """

    # Nothing uses an observer's result: without this mark, dead-code elimination would remove the node.
    _is_impure = True

    def __init__(self, site: Site, weighing: Weighing | None = None) -> None:
        super().__init__()
        self.site = site
        self.kind = kind_of(site.kind)
        self.weighing = weighing
        self.ledger: Ledger | None = None

    @property
    def statistics(self) -> Sequence[str]:
        """Names of what `measure` gives, in its order."""
        raise NotImplementedError

    def measure(
        self, activation: Tensor, query: Tensor | None, key: Tensor | None, mask: Tensor | None
    ) -> list[Tensor]:
        """Sum each statistic over the tokens of each sample.

        Args:
            activation: what reads the units is fed: float [B, ..., units], or the heads' outputs [B, H, T, D].
            query: float [B, H, T, D] or None.
            key: float [B, H, S, D] or None.
            mask: what SDPA was given, broadcastable to [B, H, T, S]; bool (True attends) or float (added).

        Returns:
            One float [B, units] for each name in `statistics`.
        """
        raise NotImplementedError

    def tokens(self, activation: Tensor) -> int:
        """Count the tokens of one sample of an activation."""
        return self.kind.tokens(activation).shape[1]

    def forward(
        self, activation: Tensor, query: Tensor | None = None, key: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Measure and record; the arguments are those of `measure`."""
        if self.ledger is None or isinstance(activation, FakeTensor):  # shape propagation measures nothing
            return
        # Each is switched off only where it is on: on small models a switch between two layers shows in the time.
        if torch.is_autocast_enabled(device := activation.device.type):
            with torch.autocast(device, enabled=False):
                self.forward(activation, query, key, mask)
        elif torch.is_grad_enabled():
            with torch.no_grad():
                self.forward(activation, query, key, mask)
        else:
            self.ledger.record(self.site.name, self.measure(activation, query, key, mask), self.tokens(activation))
            if self.site.name in self.ledger.moments.sums:
                self._sample_tokens(self.ledger, activation, query, key)

    def _sample_tokens(self, ledger: Ledger, activation: Tensor, query: Tensor | None, key: Tensor | None) -> None:
        """Hand a few tokens of each sample to the ledger, for the second moments."""
        taken = _take(self.kind.tokens(activation), ledger)
        rows = {FIRST: taken.reshape(-1, self.site.width)}
        keys = 0
        if query is not None and key is not None:
            sampled = _take(key.transpose(1, 2), ledger)
            keys = sampled.shape[1]
            rows[QUERY] = _take(query.transpose(1, 2), ledger).flatten(0, 1)
            rows[KEY] = sampled.flatten(0, 1)
        ledger.sample(self.site.name, rows, taken.shape[1], keys)

    def extra_repr(self) -> str:
        """Name the site in the module's printed form."""
        return self.site.name


class NeuronObserver(UnitObserver):
    """Watch units of one channel, as in a feed-forward: Σ|a| ("abs") and Σa² ("square") of every one."""

    @property
    def statistics(self) -> Sequence[str]:
        """Names of what is measured."""
        return ("abs", "square")

    def measure(
        self, activation: Tensor, query: Tensor | None, key: Tensor | None, mask: Tensor | None
    ) -> list[Tensor]:
        """Sum |a| and a² over the tokens; see the base."""
        return _sum_blocks(self.kind.tokens(activation), _magnitudes)


class HeadObserver(UnitObserver):
    """Watch an attention: Σ‖o_j‖₁ ("l1"), Σ‖o_j‖₂ ("l2"), and each head's attention entropy and confidence.

    A fused SDPA has no attention weights to look at, so they are computed anew from query and key for a few query
    tokens, the same ones for every sample (see `sampled_positions`). Their sums are scaled to all tokens, so that one
    count serves all statistics. "entropy" is in nats; "confidence" is the largest weight. They cost about as much as
    all the rest, so `instrument` gives `weighing` only when asked to; without it only the norms are measured.
    """

    @property
    def statistics(self) -> Sequence[str]:
        """Names of what is measured."""
        return ("l1", "l2") if self.weighing is None else ("l1", "l2", "entropy", "confidence")

    def __init__(self, site: Site, weighing: Weighing | None = None) -> None:
        super().__init__(site, weighing)
        self._positions: dict[tuple[int, torch.device], Tensor] = {}

    def measure(
        self, activation: Tensor, query: Tensor | None, key: Tensor | None, mask: Tensor | None
    ) -> list[Tensor]:
        """Sum the heads' norms over the tokens, entropy and confidence over sampled ones; see the base."""
        # SDPA lays its output out as [B, T, H, D], so this is in the order of memory.
        sums = _sum_blocks(self.kind.tokens(activation), _norms)
        if self.weighing is None or query is None or key is None:
            return sums
        entropy, confidence = self._weigh(query, key, mask, self._sample(query.shape[2], query.device))
        share = query.shape[2] / entropy.shape[2]
        return [*sums, entropy.sum(2) * share, confidence.sum(2) * share]

    def _weigh(self, query: Tensor, key: Tensor, mask: Tensor | None, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Give entropy and largest weight of the chosen queries' attention, [B, H, chosen] each.

        With scores s, m = max s, e = exp(s - m) and z = Σe the weights are e/z: their largest is 1/z and their entropy
        log z - Σ e·(s - m) / z.
        """
        assert self.weighing is not None
        scale = query.shape[-1] ** -0.5 if self.weighing.scale is None else self.weighing.scale
        scores = (_exact(query.index_select(2, chosen)) * scale) @ _exact(key).transpose(2, 3)
        if mask is not None:
            if mask.dim() >= 2 and mask.shape[-2] > 1:
                mask = mask.index_select(-2, chosen)
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        if self.weighing.causal:
            later = torch.arange(scores.shape[3], device=chosen.device) > chosen.unsqueeze(1)
            scores = scores.masked_fill(later, -torch.inf)
        scores = scores.sub_(scores.amax(3, keepdim=True))
        masked = mask is not None or self.weighing.causal
        if masked:
            scores = scores.nan_to_num_(nan=_NEVER, neginf=_NEVER)
        weights = scores.exp()
        total = weights.sum(3)
        confidence = total.reciprocal()
        entropy = total.log() - torch.linalg.vecdot(weights, scores) * confidence
        if masked:  # a query that sees no key at all: SDPA gives it zeros, so its weights are zeros
            return entropy.nan_to_num_(nan=0, neginf=0), confidence.nan_to_num_(posinf=0)
        return entropy, confidence

    def _sample(self, tokens: int, device: torch.device) -> Tensor:
        """Choose query positions, int64, by the sequence's length alone."""
        if (tokens, device) not in self._positions:
            positions = torch.tensor(sampled_positions(tokens), device=device)
            self._positions[tokens, device] = positions
        return self._positions[tokens, device]


def _take(values: Tensor, ledger: Ledger) -> Tensor:
    """Pick the sampled tokens of [B, T, ...], as a copy in at least float32, [B, k, ...]."""
    samples, chosen = ledger.positions(values.shape[1], values.device)
    return _exact(values.index_select(1, chosen[0]) if len(chosen) == 1 else values[samples, chosen])


def _sum_blocks(values: Tensor, measure: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    """Sum over the tokens of [B, T, ...], on a CPU a block at a time: some samples, or some tokens of one.

    Args:
        values: of any floating dtype.
        measure: gives a [B, ...] for each statistic, of a part of the tokens in at least float32.
    """
    if values.device.type != "cpu" or values.numel() <= BLOCK:
        return measure(_exact(values))
    samples = torch.split(values, max(1, BLOCK // max(1, values[0].numel())))
    tokens = max(1, BLOCK // max(1, samples[0][:, 0].numel()))
    blocks = [[measure(_exact(part)) for part in torch.split(some, tokens, 1)] for some in samples]
    totals = [[torch.stack(parts).sum(0) for parts in zip(*each, strict=True)] for each in blocks]
    return [torch.cat(rows) for rows in zip(*totals, strict=True)]


def _magnitudes(values: Tensor) -> list[Tensor]:
    """Give Σ|a| and Σa² over the tokens of [B, T, units]."""
    # torch.linalg.vector_norm over this dimension is ten times slower on CPU than these two passes.
    magnitude = values.abs()
    return [magnitude.sum(1), magnitude.square_().sum(1)]


def _norms(values: Tensor) -> list[Tensor]:
    """Give Σ‖o‖₁ and Σ‖o‖₂ over the tokens of [B, T, H, D]."""
    return [values.abs().sum(1).sum(2), torch.linalg.vector_norm(values, 2, 3).sum(1)]


def _exact(tensor: Tensor) -> Tensor:
    """Give at least float32: squares and sums of half types overflow or stall."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


ObserverFactory = Callable[[Site, Weighing | None], UnitObserver]
