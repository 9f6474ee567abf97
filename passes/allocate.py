"""Decide which units stay: from scores to a plan, by one global threshold, given or solved for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from passes import costs
from passes.criteria import Criterion, check_scores, choose, score
from passes.errors import BudgetError, CalibrationError, PlanError, UsageError
from passes.fingerprint import check_fingerprint, fingerprint
from passes.plan import SitePlan, SlimPlan
from passes.program import Program
from passes.site import Site
from passes.sites import locate_all
from passes.statistics import Statistics

Normalization = Literal["max", "minmax"]
# The largest relative squared error of the prediction at which pictures of dense and slim could not be told apart by
# eye, see docs/adr/0012.
DEFAULT_MAX_ERROR = 1e-3


@dataclass(frozen=True)
class Threshold:
    """Keep every unit whose score, divided by its site's largest, is at least tau.

    Attributes:
        tau: in [0, 1]; 0 keeps everything.
        normalize: "max" divides by the site's largest score, "minmax" maps the site's scores to [0, 1] first.
    """

    tau: float = 0.05
    normalize: Normalization = "max"

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise UsageError(f"tau is {self.tau:g}; it must be in [0, 1], such as 0.05")
        _check_normalization(self.normalize)


@dataclass(frozen=True)
class KeepParams:
    """Solve for the tau at which at most this fraction of all the denoiser's parameters stays."""

    fraction: float
    normalize: Normalization = "max"

    def __post_init__(self) -> None:
        _check_fraction("keep-params", self.fraction)
        _check_normalization(self.normalize)


@dataclass(frozen=True)
class KeepMacs:
    """Solve for the tau at which at most this fraction of all the denoiser's multiply-adds stays."""

    fraction: float
    normalize: Normalization = "max"

    def __post_init__(self) -> None:
        _check_fraction("keep-macs", self.fraction)
        _check_normalization(self.normalize)


@dataclass(frozen=True)
class MaxError:
    """Remove as many parameters as the prediction's expected error allows.

    Attributes:
        error: largest relative squared error of the prediction, E‖slim − dense‖² / E‖dense‖².
    """

    error: float = DEFAULT_MAX_ERROR

    def __post_init__(self) -> None:
        if not 0 < self.error < 1:
            raise UsageError(f"max-error is {self.error:g}; it must be between 0 and 1, such as {DEFAULT_MAX_ERROR:g}")


Policy = Threshold | KeepParams | KeepMacs | MaxError


def analyze(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    policy: Policy | None = None,
    criterion: str | Sequence[str] | Criterion | None = None,
) -> SlimPlan:
    """Plan from statistics: check that they are of this program, score, allocate, and note how it came about.

    Args:
        program: the dense program.
        sites: its sites.
        statistics: of a calibration of this program.
        policy: `Threshold(0.05)` if None.
        criterion: as `passes.criteria.score` takes it.

    Raises:
        PlanError: the statistics are of another model.
        BudgetError: as `allocate`.
        CalibrationError: the statistics are empty or not finite.
    """
    check_statistics(program, sites, statistics)
    chosen = getattr(criterion, "__name__", "custom") if callable(criterion) else choose(criterion)
    record = {"criterion": chosen, "samples": statistics.samples, "calls": statistics.calls}
    parameters = dict(program.graph_module.named_parameters())
    scores = score(sites, statistics, criterion, parameters=parameters)
    return allocate(program, sites, scores, policy or Threshold(), record=record)


def check_statistics(program: Program, sites: Sequence[Site], statistics: Statistics) -> None:
    """Refuse statistics of another model.

    Raises:
        PlanError: says what differs.
    """
    everything = {site.name: SitePlan(site.kind, site.units, tuple(range(site.units))) for site in sites}
    try:
        check_fingerprint(SlimPlan(statistics.fingerprint, everything), program, tuple(sites))
    except PlanError as error:
        raise PlanError(f"these statistics are not of this model, calibrate it anew: {error}") from error


def allocate(
    program: Program,
    sites: Sequence[Site],
    scores: Mapping[str, Tensor],
    policy: Policy,
    *,
    record: Mapping[str, Any] | None = None,
) -> SlimPlan:
    """Turn scores into a plan. One global tau gives each site its own ratio; at least one unit stays in each.

    Args:
        program: the dense program, for its costs and its fingerprint.
        sites: all its sites.
        scores: by site name, [units], not negative; the higher, the longer it stays.
        policy: a threshold, or a budget for which it is solved, exact to one unit: with the last removed unit put
            back, the budget would be exceeded.
        record: what else to note in `SlimPlan.policy`.

    Raises:
        BudgetError: one unit left in every site is still more than the budget; says what can be met.
        CalibrationError: a score is missing, not finite, negative, or of another shape than its site.
    """
    sites = tuple(sites)
    for site in sites:
        if site.name not in scores:
            raise CalibrationError(f"site {site.name!r} has no scores: score every site of the program")
        check_scores(site, scores[site.name])
    if isinstance(policy, MaxError):
        raise UsageError("one global threshold predicts no error; give it --tau or a budget, or choose --method best")
    noted: dict[str, Any] = {"method": "threshold", "normalize": policy.normalize}
    if isinstance(policy, Threshold):
        masks = {site.name: keep(normalize(scores[site.name], policy.normalize), policy.tau) for site in sites}
        noted["tau"] = policy.tau
    else:
        masks, noted["tau"] = _solve(program, sites, scores, policy)
        noted["budget"] = {"params" if isinstance(policy, KeepParams) else "macs": policy.fraction}
    plans = {
        site.name: SitePlan(site.kind, site.units, tuple(masks[site.name].nonzero().flatten().tolist()))
        for site in sites
    }
    return SlimPlan(fingerprint(program, sites), plans, {**noted, **(record or {})})


def normalize(scores: Tensor, how: Normalization = "max") -> Tensor:
    """Bring a site's scores to [0, 1], the largest to exactly 1; float64 [units].

    A site whose scores are all zero carries nothing: its scores stay zero. Under "minmax", equal scores are all 1.

    Example:
        >>> normalize(torch.tensor([1.0, 2.0, 4.0])).tolist()
        [0.25, 0.5, 1.0]
    """
    scores = scores.double()
    largest, least = scores.max(), scores.min()
    if largest == 0:
        return torch.zeros_like(scores)
    if how == "max":
        return scores / largest
    return (scores - least) / (largest - least) if largest > least else torch.ones_like(scores)


def keep(relative: Tensor, tau: float) -> Tensor:
    """Give bool [units], True where a normalized score is at least tau; the largest is kept in any case."""
    kept = relative >= tau
    kept[relative.argmax()] = True
    return kept


class _Candidate(NamedTuple):
    """A unit that may go. Sorts by score; ties (min-max gives each site a zero) by share of the site's largest."""

    score: float
    share: float
    site: int
    unit: int


def _solve(
    program: Program, sites: tuple[Site, ...], scores: Mapping[str, Tensor], policy: KeepParams | KeepMacs
) -> tuple[dict[str, Tensor], float]:
    """Remove units from the lowest normalized score up until the budget is met.

    Of units with exactly equal scores only as many go as needed; only then the result is not what `Threshold(tau)`
    gives for the returned tau.
    """
    total, budget, whole = price_list(program, sites, policy)
    prices = [whole[site.name] // site.units for site in sites]
    least = total - sum(price * (site.units - 1) for price, site in zip(prices, sites, strict=True))
    if least > budget:
        raise unmet(policy, least, total, "one unit left in each site")
    masks = {site.name: torch.ones(site.units, dtype=torch.bool) for site in sites}
    candidates = []
    for index, site in enumerate(sites):
        relative, shares = normalize(scores[site.name], policy.normalize), normalize(scores[site.name]).tolist()
        spared = int(relative.argmax())
        candidates += [
            _Candidate(value, shares[unit], index, unit)
            for unit, value in enumerate(relative.tolist())
            if unit != spared
        ]
    candidates.sort()
    left, removed = total, 0
    while left > budget:
        index, unit = candidates[removed].site, candidates[removed].unit
        masks[sites[index].name][unit] = False
        left -= prices[index]
        removed += 1
    if removed == 0:
        return masks, 0.0
    return masks, candidates[removed].score if removed < len(candidates) else 1.0


def price_list(
    program: Program, sites: Sequence[Site], policy: KeepParams | KeepMacs
) -> tuple[int, int, dict[str, int]]:
    """Say what a budget counts: of the whole denoiser, what may stay of it, and each whole site's part."""
    if isinstance(policy, KeepParams):
        total, whole = costs.program_params(program), {site.name: costs.site_params(program, site) for site in sites}
    else:
        places = locate_all(program)
        total = costs.program_macs(program)
        whole = {site.name: costs.site_macs(program, site, places[site]) for site in sites}
    return total, int(Fraction(policy.fraction).limit_denominator(10**9) * total), whole


def unmet(policy: KeepParams | KeepMacs, least: int, total: int, with_what: str) -> BudgetError:
    """Make the error that says which budget could be met."""
    word = "parameters" if isinstance(policy, KeepParams) else "multiply-adds"
    share = -(-least * 10_000 // total) / 10_000
    return BudgetError(
        f"{policy.fraction:g} of the {word} can't be met: with {with_what}, {share:g} of them stay; "
        f"ask for {share:g} or more"
    )


def _check_fraction(option: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UsageError(f"{option} is {fraction:g}; it must be above 0 and at most 1, such as 0.9")


def _check_normalization(how: str) -> None:
    if how not in ("max", "minmax"):
        raise UsageError(f"unknown normalization {how!r}; there are 'max' and 'minmax'")
