"""One site by itself: weights, the very samples that its moments are summed from, and what new weights do to those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.calibrate.moments import COUNT, FIRST, KEY, KEY_COUNT, QUERY, fold, moment_shapes
from passes.plan.slim_plan import SitePlan
from passes.sites.site import Site
from tests.covariances import attention, feed_forward

OUT = 5
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class SampledSite:
    """A site, with what it was sampled on.

    Attributes:
        site: its linears are "attn.q", "attn.k", "attn.v", "attn.out"; or "ff.up", "ff.down".
        parameters: by path.
        inputs: of an attention: of the queries float64 [N, in], and of keys and values [M, in]; of a feed-forward its
            hidden activation, [N, neurons].
        mixing: of an attention, its weights [N, M]: the same before and after, for its value half is tested alone.
        weights: how much each of the N rows counts, and each of the M.
    """

    site: Site
    parameters: Parameters
    inputs: tuple[Tensor, ...]
    mixing: Tensor
    weights: tuple[Tensor, Tensor]

    def sums(self) -> dict[str, Tensor]:
        """Sum the samples as calibration does."""
        sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in moment_shapes(self.site).items()}
        rows = {FIRST: self.hidden({}), COUNT: self.weights[0], KEY_COUNT: self.weights[1]}
        if self.site.kind == "attention":
            shape = (-1, self.site.units, self.site.unit_width)
            rows[QUERY] = self.linear("attn.q", self.inputs[0], {}).reshape(shape)
            rows[KEY] = self.linear("attn.k", self.inputs[1], {}).reshape(shape)
        fold(sums, rows)
        return sums

    def linear(self, path: str, rows: Tensor, updates: Parameters) -> Tensor:
        """Apply a linear, the new one where there is one, in float64."""
        both = {**self.parameters, **updates}
        found = rows @ both[f"{path}.weight"].double().T
        return found + both[f"{path}.bias"].double() if f"{path}.bias" in both else found

    def hidden(self, updates: Parameters) -> Tensor:
        """Give what enters the reader."""
        if self.site.kind == "feed_forward":
            return self.inputs[0]
        return self.mixing @ self.linear("attn.v", self.inputs[1], updates)

    def output_error(self, entry: SitePlan, updates: Parameters) -> float:
        """Compute E‖W a + b − W' a' − b'‖² sample by sample."""
        path = self.site.tap
        dense = self.linear(path, self.hidden({}), {})
        a, new = self.hidden(updates), dict(updates)
        if len(entry.kept) < self.site.units:
            a = a[:, self.site.columns(entry.mask())]
            sliced = self.parameters[f"{path}.weight"][:, self.site.columns(entry.mask())]
            new.setdefault(f"{path}.weight", sliced)
        lost = (self.linear(path, a, new) - dense).square().sum(1)
        return float((lost * self.weights[0]).sum() / self.weights[0].sum())

    def score_share(self, entry: SitePlan, updates: Parameters, *, implied_scale: bool, centred: bool) -> float:
        """Compute Σ over heads of E(qᵀk − q'ᵀk')² / E(qᵀk)² over every query with every key.

        Where centred, but for what is the same for all keys of a query: softmax doesn't see that.
        """
        width = entry.width or self.site.unit_width
        scale = (self.site.unit_width / width) ** 0.5 if implied_scale else 1.0
        dense, slim = self._scores({}, self.site.unit_width), self._scores(updates, width) * scale
        keys = self.weights[1] / self.weights[1].sum()
        if centred:
            dense, slim = (each - (each * keys).sum(2, keepdim=True) for each in (dense, slim))
        pairs = self.weights[0].unsqueeze(1) / self.weights[0].sum() * keys
        lost, energy = (float((each.square() * pairs).sum()) for each in (dense - slim, dense))
        return lost / energy if energy > 0 else 0.0

    def _scores(self, updates: Parameters, width: int) -> Tensor:
        shape = (-1, self.site.units, width)
        query, key = (
            self.linear(path, rows, updates).reshape(shape).transpose(0, 1)
            for path, rows in zip(("attn.q", "attn.k"), self.inputs, strict=True)
        )
        return query @ key.transpose(1, 2)


def sampled_attention(
    seed: int,
    *,
    heads: int = 3,
    width: int = 4,
    queries: int = 40,
    keys: int = 23,
    text: int = 12,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> SampledSite:
    """Draw an attention from `queries` rows to `keys` rows of `text` channels: fewer than a head's are its rank."""
    draw = torch.Generator().manual_seed(seed)
    inner = heads * width
    parameters = {
        "attn.q.weight": torch.randn(inner, 16, generator=draw),
        "attn.k.weight": torch.randn(inner, text, generator=draw),
        "attn.v.weight": torch.randn(inner, text, generator=draw),
        "attn.out.weight": torch.randn(OUT, inner, generator=draw),
        "attn.out.bias": torch.randn(OUT, generator=draw),
    }
    if not bias:
        del parameters["attn.out.bias"]
    inputs = tuple(torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((queries, 16), (keys, text)))
    mixing = (3 * torch.randn(queries, keys, generator=draw, dtype=torch.float64)).softmax(1)
    weights = tuple(0.5 + torch.rand(size, generator=draw, dtype=torch.float64) for size in (queries, keys))
    stored = {name: value.to(dtype) for name, value in parameters.items()}
    return SampledSite(attention(heads, width), stored, inputs, mixing, (weights[0], weights[1]))


def sampled_feed_forward(
    seed: int,
    *,
    neurons: int = 10,
    rows: int = 60,
    rank: int | None = None,
    twins: bool = False,
    dead: bool = False,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> SampledSite:
    """Draw a feed-forward's last linear and what enters it; twins are two equal neurons, a dead one gives nothing."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUT, neurons, generator=draw)
    parameters = {"ff.up.weight": torch.randn(neurons, 3, generator=draw), "ff.down.weight": weight}
    if bias:
        parameters["ff.down.bias"] = torch.randn(OUT, generator=draw)
    low = torch.randn(rows, rank or neurons, generator=draw, dtype=torch.float64)
    hidden = low @ torch.randn(rank or neurons, neurons, generator=draw, dtype=torch.float64) + 1
    if twins:
        hidden[:, 7] = hidden[:, 2]
    if dead:
        hidden[:, 4] = 0
    count = 0.5 + torch.rand(rows, generator=draw, dtype=torch.float64)
    stored = {name: value.to(dtype) for name, value in parameters.items()}
    none = torch.zeros(0, dtype=torch.float64)
    return SampledSite(feed_forward(neurons), stored, (hidden,), none, (count, none))
