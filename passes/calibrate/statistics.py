"""What calibration saw: sums, so that shards, ranks and resumed runs add up to the same result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from passes.errors import CalibrationError, CheckpointError, UsageError

COUNT = "count"
HEADER = "header"
MOMENTS = "moments"
HALVES = "halves"
PROBES = "probes"
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over every calibration sample, by site and timestep bucket. Its size doesn't depend on the samples.

    Examples:
        >>> statistics = prepared.statistics()
        >>> statistics.mean("down_blocks.0.attentions.0.transformer_blocks.0.ff.net", "abs").shape  # of each neuron
        torch.Size([64])

    Attributes:
        sites: by site name, then by statistic ("abs", "square"; "l1", "l2", "entropy", "confidence"): float64
            [buckets, units], the sum over samples and tokens; and "count", float64 [buckets], how many tokens that is.
        samples: rows of all batches so far; both rows of a guided (doubled) batch count.
        calls: forwards so far: where an interrupted calibration continues.
        timesteps: the timesteps covered, [0, timesteps), in as many equal buckets as the sums have rows.
        fingerprint: of the program that was watched, see `passes.plan.fingerprint`.
        moments: by site name, second moments over sampled tokens, float64 (see `passes.calibrate.moments`); empty if
            none were taken.
        probes: a few inputs of the denoiser, each the flat list of its tensors: what sensitivities are measured on.
        weights: how much a token counted in the moments, by timestep bucket; empty if all did alike.
        halves: second moments of some sites over every second batch alone, see `passes.solve.settled`.
    """

    sites: Mapping[str, Mapping[str, Tensor]]
    samples: int
    calls: int
    timesteps: float
    fingerprint: Mapping[str, Any]
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    probes: tuple[tuple[Tensor, ...], ...] = ()
    weights: tuple[float, ...] = ()
    halves: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __repr__(self) -> str:
        moments = "with second moments" if self.moments else "no second moments"
        return f"Statistics({len(self.sites)} sites, {self.samples} rows in {self.calls} calls, {moments})"

    @property
    def buckets(self) -> int:
        """Timestep buckets."""
        return next((len(sums[COUNT]) for sums in self.sites.values()), 0)

    def mean(self, site: str, statistic: str) -> Tensor:
        """Average a statistic over every sample, token and timestep.

        Returns:
            float64 [units].

        Raises:
            UsageError: the site was not observed, or not for this statistic.
            CalibrationError: the site saw no token.
        """
        sums, count = self._sums(site, statistic), self.sites[site][COUNT].sum()
        if count == 0:
            raise CalibrationError(f"site {site!r} saw no token: calibrate on at least one batch")
        return sums.sum(0) / count

    def mean_by_bucket(self, site: str, statistic: str) -> Tensor:
        """Average a statistic over samples and tokens, each timestep bucket by itself.

        Returns:
            float64 [buckets, units]; a row of NaN where no timestep fell in the bucket.

        Raises:
            UsageError: the site was not observed, or not for this statistic.
        """
        return self._sums(site, statistic) / self.sites[site][COUNT].unsqueeze(1)

    def _sums(self, site: str, statistic: str) -> Tensor:
        if site not in self.sites:
            raise UsageError(f"site {site!r} is not in the statistics: they are of another model or of fewer sites")
        sums = self.sites[site]
        if statistic == COUNT or statistic not in sums:
            known = ", ".join(name for name in sums if name != COUNT)
            raise UsageError(f"site {site!r} has no statistic {statistic!r}, only {known}: calibrate with its observer")
        return sums[statistic]

    def to_tensors(self) -> dict[str, Tensor]:
        """Flatten into one dict of tensors, as safetensors files hold; `from_tensors` gives the same bits back."""
        header = {
            "format": FORMAT,
            "samples": self.samples,
            "calls": self.calls,
            "timesteps": self.timesteps,
            "fingerprint": self.fingerprint,
            "weights": self.weights,
        }
        tensors = {HEADER: torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8)}
        for site, sums in self.sites.items():
            for statistic, values in sums.items():
                tensors[f"{site}/{statistic}"] = values.clone()
        for part, moments in ((MOMENTS, self.moments), (HALVES, self.halves)):
            for site, sums in moments.items():
                for name, values in sums.items():
                    tensors[f"{part}/{site}/{name}"] = values
        for number, leaves in enumerate(self.probes):
            for position, leaf in enumerate(leaves):
                tensors[f"{PROBES}/{number:04}/{position:02}"] = leaf
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """Rebuild statistics from what `to_tensors` gave, the sites in alphabetical order.

        Raises:
            CheckpointError: a tensor is missing, of another shape or type, or holds what no calibration can.
        """
        try:
            header = json.loads(bytes(tensors[HEADER].tolist()).decode())
            if header["format"] != FORMAT:
                raise CheckpointError(f"statistics of format {header['format']!r}, not {FORMAT}: calibrate again")
            facts = (int(header["samples"]), int(header["calls"]), float(header["timesteps"]))
            fingerprint, weights = dict(header["fingerprint"]), tuple(map(float, header["weights"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"these are no statistics (bad header: {error!r}): calibrate again") from error
        parts: dict[str, dict[str, dict[str, Tensor]]] = {MOMENTS: {}, HALVES: {}, PROBES: {}, "": {}}
        for key in sorted(tensors):
            path, separator, name = key.rpartition("/")
            part, _, rest = path.partition("/")
            if part in (MOMENTS, HALVES, PROBES):
                parts[part].setdefault(rest, {})[name] = tensors[key].cpu()
            elif separator:
                parts[""].setdefault(path, {})[name] = tensors[key].cpu().clone()
        probes = tuple(tuple(leaves.values()) for leaves in parts[PROBES].values())
        statistics = cls(parts[""], *facts, fingerprint, parts[MOMENTS], probes, weights, parts[HALVES])
        _check(statistics)
        return statistics

    def light(self) -> Statistics:
        """Leave out what only planning needs: second moments and probes."""
        return replace(self, moments={}, probes=(), halves={})

    def identical(self, other: Statistics) -> bool:
        """Say whether two statistics are equal to the last bit."""
        mine, others = self.to_tensors(), other.to_tensors()
        return mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)


def merge(*statistics: Statistics) -> Statistics:
    """Add up the statistics of several runs, as if one run had seen all their batches.

    Raises:
        UsageError: there is nothing to merge.
        CalibrationError: they are of different models, sites, statistics or buckets.
    """
    if not statistics:
        raise UsageError("merge needs at least one Statistics")
    first = statistics[0]
    for other in statistics[1:]:
        check_same_kind(first, other)
    sites = {
        site: {name: torch.stack([each.sites[site][name] for each in statistics]).sum(0) for name in sums}
        for site, sums in first.sites.items()
    }
    moments = _summed([each.moments for each in statistics])
    halves = _summed([each.halves for each in statistics])
    samples, calls = sum(each.samples for each in statistics), sum(each.calls for each in statistics)
    probes = tuple(probe for each in statistics for probe in each.probes)
    return Statistics(sites, samples, calls, first.timesteps, first.fingerprint, moments, probes, first.weights, halves)


def _summed(moments: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """Add up second moments, in the order given, without holding all copies at once."""
    total = {site: {name: values.clone() for name, values in sums.items()} for site, sums in moments[0].items()}
    for other in moments[1:]:
        for site, sums in total.items():
            for name, values in sums.items():
                values.add_(other[site][name])
    return total


def check_same_kind(one: Statistics, other: Statistics) -> None:
    """Refuse to add statistics that don't measure the same things on the same model.

    Raises:
        CalibrationError: says what differs.
    """
    if one.fingerprint != other.fingerprint:
        raise CalibrationError("these statistics are of another model (other shapes or weights): calibrate again")
    if one.timesteps != other.timesteps:
        raise CalibrationError(f"these statistics cover {other.timesteps:g} timesteps, not {one.timesteps:g}")
    if one.sites.keys() != other.sites.keys():
        names = sorted(one.sites.keys() ^ other.sites.keys())
        raise CalibrationError(f"these statistics are of other sites: {names[0]!r} is only in one of them")
    for site, sums in one.sites.items():
        shapes = {name: tuple(values.shape) for name, values in sums.items()}
        others = {name: tuple(values.shape) for name, values in other.sites[site].items()}
        if shapes != others:
            raise CalibrationError(f"site {site!r} was measured as {others}, not as {shapes}: use the same observers")
    if one.weights != other.weights:
        raise CalibrationError("these statistics weigh timesteps in another way: use the same timestep weights")
    if one.moments.keys() != other.moments.keys():
        raise CalibrationError("only one of these statistics has second moments: calibrate both with them, or neither")


def _check(statistics: Statistics) -> None:
    """Refuse what no calibration can have written."""
    if statistics.samples < 0 or statistics.calls < 0 or not statistics.timesteps > 0:
        raise CheckpointError("the statistics' header is out of range: calibrate again")
    if not all(0 <= weight < math.inf for weight in statistics.weights):
        raise CheckpointError("the statistics' timestep weights are out of range: calibrate again")
    for moments in (statistics.moments, statistics.halves):
        for site, sums in moments.items():
            for name, values in sums.items():
                if values.dtype != torch.float64 or not bool(torch.isfinite(values).all()):
                    raise CheckpointError(
                        f"site {site!r}: moment {name} is {values.dtype} or not finite: calibrate again"
                    )
    buckets: set[int] = set()
    for site, sums in statistics.sites.items():
        if COUNT not in sums or len(sums) < 2:
            raise CheckpointError(f"the statistics of site {site!r} are incomplete: calibrate again")
        buckets.add(sums[COUNT].numel())
        units = {values.numel() // max(1, sums[COUNT].numel()) for name, values in sums.items() if name != COUNT}
        for name, values in sums.items():
            shape = (*buckets,) if name == COUNT else (*buckets, *units)
            if tuple(values.shape) != shape or values.dtype != torch.float64:
                raise CheckpointError(f"site {site!r}: {name} is {values.dtype} {tuple(values.shape)}: calibrate again")
            if not bool(torch.isfinite(values).all()):
                raise CheckpointError(f"site {site!r}: {name} is not finite: calibrate again")
