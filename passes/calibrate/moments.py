"""Second moments of what units compute: sums over sampled tokens, from which every closed form here is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from passes.errors import CalibrationError, UsageError
from passes.sites.kinds import kind_of
from passes.sites.site import Site

HALVES_LIMIT = 2**28  # bytes
BLOCK = 2048  # tokens summed in their own precision

COUNT, FIRST, SECOND = "count", "first", "second"
QUERY, KEY_COUNT, KEY_FIRST, KEY = "query", "key_count", "key_first", "key"
Sums = Mapping[str, Tensor]


def moment_shapes(site: Site) -> dict[str, tuple[int, ...]]:
    """Name the sums of a site and their shapes; all are float64.

    "count" is the weighted number of tokens, "first" and "second" are Σ a and Σ a aᵀ over what is read. Its kind
    may add others.
    """
    own: dict[str, tuple[int, ...]] = {COUNT: (), FIRST: (site.width,), SECOND: (site.width, site.width)}
    return {**own, **kind_of(site.kind).sums(site)}


def score_shapes(site: Site) -> dict[str, tuple[int, ...]]:
    """Name what an attention adds and its shapes: Σ q qᵀ, Σ k and Σ k kᵀ of each head.

    With the second moment of its input x, q = W x has W E[x xᵀ] Wᵀ: nothing else of the input counts for scores, and a
    head's is far smaller.
    """
    square = (site.units, site.unit_width, site.unit_width)
    return {QUERY: square, KEY_COUNT: (), KEY_FIRST: square[:2], KEY: square}


def moment_bytes(sites: tuple[Site, ...]) -> int:
    """Count the bytes that the sums of all sites take."""
    return 8 * sum(torch.Size(shape).numel() for site in sites for shape in moment_shapes(site).values())


def halved_sites(moments: Mapping[str, Mapping[str, tuple[int, ...]]]) -> list[str]:
    """Choose the sites that are measured on half of the calibration set too: attentions, as far as memory allows."""
    sizes = {
        site: 8 * sum(torch.Size(shape).numel() for shape in shapes.values())
        for site, shapes in moments.items()
        if QUERY in shapes
    }
    chosen, room = [], HALVES_LIMIT
    for site, size in sorted(sizes.items(), key=lambda each: each[1]):
        room -= size
        if room >= 0:
            chosen.append(site)
    return chosen


@dataclass(frozen=True)
class Covariance:
    """A site's activation as the closed forms take it.

    Attributes:
        mean: float64 [width].
        matrix: float64 [width, width], E[(a − mean)(a − mean)ᵀ].
        count: tokens that it was estimated on.
    """

    mean: Tensor
    matrix: Tensor
    count: float


def covariance(site: Site, sums: Sums, *, centred: bool = True) -> Covariance:
    """Compute the covariance of what is read of a site.

    Args:
        site: the site.
        sums: its sums.
        centred: subtract the mean; otherwise the second moment itself is given, with a mean of zero: what is right for
            a reader without a bias that could take a mean over.

    Raises:
        CalibrationError: the site saw no token.
    """
    count = float(sums[COUNT])
    if not count > 0:
        raise CalibrationError(f"site {site.name!r} saw no token: calibrate on at least one batch")
    second = sums[SECOND] / count
    if not centred:
        return Covariance(torch.zeros_like(sums[FIRST]), second, count)
    mean = sums[FIRST] / count
    return Covariance(mean, second - torch.outer(mean, mean), count)


def sums_of(site: Site, moments: Mapping[str, Sums]) -> Sums:
    """Look a site's sums up.

    Raises:
        UsageError: the calibration took none.
    """
    if site.name not in moments:
        raise UsageError(
            f"site {site.name!r} has no second moments: calibrate with them (they are on by default), or choose "
            '`method="threshold"` with `compensation="none"`'
        )
    return moments[site.name]


def fold(sums: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
    """Add sampled tokens to a site's sums, in place.

    Products are taken in the rows' own precision, a block at a time, and added in float64.

    Args:
        sums: as `moment_shapes` lists them.
        rows: "first": activations [N, width]; "query": [N, heads, head_dim]; "key": [M, heads, head_dim]; weights
            "count" [N] and "key_count" [M], float64.
    """
    for part in _blocks(rows, (FIRST, COUNT)):
        _fold_one(sums[FIRST], sums[SECOND], part[FIRST], part[COUNT])
    sums[COUNT].add_(rows[COUNT].sum())
    if QUERY not in sums:
        return
    for part in _blocks(rows, (QUERY, COUNT)):
        query = part[QUERY].transpose(0, 1)
        sums[QUERY].add_((query.transpose(1, 2) * _as(part[COUNT], query)) @ query)
    for part in _blocks(rows, (KEY, KEY_COUNT)):
        key = part[KEY].transpose(0, 1)
        weighted = key.transpose(1, 2) * _as(part[KEY_COUNT], key)
        sums[KEY].add_(weighted @ key)
        sums[KEY_FIRST].add_(weighted.sum(2, dtype=torch.float64))
    sums[KEY_COUNT].add_(rows[KEY_COUNT].sum())


def _blocks(rows: Mapping[str, Tensor], names: tuple[str, str]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows[names[0]]), BLOCK):
        yield {name: rows[name][start : start + BLOCK] for name in names}


def _fold_one(first: Tensor, second: Tensor, rows: Tensor, weights: Tensor) -> None:
    weighted = rows.T * _as(weights, rows)
    first.add_(weighted.sum(1, dtype=torch.float64))
    second.add_(weighted @ rows)


def _as(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like)
