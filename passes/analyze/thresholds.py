"""Decide which units stay: from scores to a plan, by one global threshold, given or solved for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from passes.analyze.criteria import Score, check_scores, choose, score
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, PlanError, UsageError
from passes.names import Normalization
from passes.plan.alignment import rounded_up
from passes.plan.costs import CostTable
from passes.plan.fingerprint import check_fingerprint, plan_for
from passes.plan.policies import Keep, MaxError, Policy, Threshold, price_list, unmet
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.site import Site


def analyze(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    policy: Policy | None = None,
    criterion: str | Sequence[str] | Score | None = None,
) -> SlimPlan:
    """Plan from statistics: check that they are of this program, score, allocate, and record the settings in the plan.

    Args:
        program: the dense program.
        sites: its sites.
        statistics: of a calibration of this program.
        policy: `Threshold(0.05)` if None.
        criterion: as `passes.analyze.criteria.score` takes it.

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
            back, the budget would be exceeded. With `align`, exact to one multiple.
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
        raise UsageError(
            'one global threshold predicts no error; give it `Threshold` or a budget, or choose `method="best"`'
        )
    noted: dict[str, Any] = {"method": "threshold", "normalize": policy.normalize}
    if isinstance(policy, Threshold):
        masks = {site.name: keep(normalize(scores[site.name], policy.normalize), policy.tau) for site in sites}
        noted["tau"] = policy.tau
    else:
        costs, budget = price_list(program, sites, policy)
        masks, noted["tau"] = _solve(sites, scores, policy, costs, budget)
        noted["budget"] = {costs.name: policy.fraction}
    if policy.align is not None:
        masks = {site.name: _filled(site, masks[site.name], scores[site.name], policy.align) for site in sites}
        noted["align"] = policy.align
    plans = {
        site.name: SitePlan(site.kind, site.units, tuple(masks[site.name].nonzero().flatten().tolist()))
        for site in sites
    }
    return plan_for(program, sites, plans, {**noted, **(record or {})})


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


def _filled(site: Site, mask: Tensor, scores: Tensor, align: int) -> Tensor:
    """Put back the best of the removed units until the site's channels are a multiple of `align`."""
    kept = int(mask.sum())
    # kept units first, whatever ties there are, then by score
    order = sorted(range(site.units), key=lambda unit: (not mask[unit], -float(scores[unit])))
    filled = torch.zeros_like(mask)
    filled[order[: rounded_up(site, kept, align)]] = True
    return filled


def _solve(
    sites: tuple[Site, ...], scores: Mapping[str, Tensor], policy: Keep, costs: CostTable, budget: int
) -> tuple[dict[str, Tensor], float]:
    """Remove units from the lowest normalized score up until the budget is met.

    Of units with exactly equal scores only as many go as needed; only then the result is not what `Threshold(tau)`
    gives for the returned tau.
    """
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
    counts = [site.units for site in sites]
    left = least = costs.total
    removed = 0
    while left > budget:
        if removed == len(candidates):
            raise unmet(policy, costs, least, "one unit left in each site")
        index, unit = candidates[removed].site, candidates[removed].unit
        site = sites[index]
        masks[site.name][unit] = False
        before, counts[index] = rounded_up(site, counts[index], policy.align), counts[index] - 1
        left += costs.of(site, rounded_up(site, counts[index], policy.align)) - costs.of(site, before)
        least = min(least, left)
        removed += 1
    if removed == 0:
        return masks, 0.0
    return masks, candidates[removed].score if removed < len(candidates) else 1.0
