"""Methods by name: how statistics and a policy become a plan.

| method | heads | neurons | refit | allocation |
|---|---|---|---|---|
| best | made narrower | backward elimination | across the site | optimum of predicted errors |
| slimdiff | made narrower, each by itself | ridge leverage (Nyström) | per module | optimum of relative site errors |
| obs | backward elimination | backward elimination | across the site | the same share of each site |
| threshold | by a score | by a score | if asked for | one global threshold |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from passes.analyze import thresholds
from passes.analyze.criteria import Score
from passes.analyze.planner import Planner
from passes.analyze.site_errors import OnSite, ignore_progress
from passes.analyze.thresholds import check_statistics
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.names import Compensation
from passes.plan.policies import Keep, MaxError, Policy, Threshold
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.site import Site
from passes.solve.recipes import RECIPES, Method


def analyze(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    policy: Policy | None = None,
    criterion: str | Sequence[str] | Score | None = None,
    *,
    method: str | None = None,
    compensation: Compensation | None = None,
    on_site: OnSite = ignore_progress,
    planner: Planner | None = None,
) -> SlimPlan:
    """Plan from statistics.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: of a calibration of this program; every method but `threshold` needs its second moments.
        policy: how much goes. By default as much as `MaxError()` allows, or what reaches `Threshold()` for that method.
        criterion: for `threshold`, as `passes.analyze.criteria.score` takes it.
        method: one of `RECIPES`; by default `threshold` where a threshold or a criterion is given, and else `best`.
        compensation: for `threshold`: "none" (default), "bias" or "lstsq".
        on_site: told how many sites have been analyzed, of how many.
        planner: what `planner_for` gave for the same arguments: several budgets then share what they have in common.

    Returns:
        A plan with its updates, what takes adapters along, and, where probes were kept, its predicted error.

    Raises:
        UsageError: method, policy and criterion contradict each other, or the statistics lack what the method needs.
        PlanError: the statistics are of another model.
        BudgetError: the budget can't be met; says what can.
        CalibrationError: the statistics are empty or not finite.
    """
    sites = tuple(sites)
    chosen = choose_method(method, policy, criterion, compensation)
    check_statistics(program, sites, statistics)
    if chosen == "threshold":
        how = compensation or "none"
        planner = planner or planner_for(program, sites, statistics, chosen, how)
        plan = _by_score(program, sites, statistics, policy or Threshold(), criterion, how, planner)
    else:
        policy = policy if policy is not None else MaxError()
        assert not isinstance(policy, Threshold)
        planner = planner or planner_for(program, sites, statistics, chosen)
        assert planner is not None
        plan = _by_error(planner, policy, chosen, statistics, on_site)
    if not isinstance(policy, Keep) or isinstance(policy.costs, str):
        return plan
    costs = policy.costs
    expected = {"of": costs.name, "dense": costs.total, "slim": costs.kept(sites, plan.sites), **costs.record}
    return replace(plan, predicted={**plan.predicted, "cost": expected})


def _by_score(
    program: Program,
    sites: tuple[Site, ...],
    statistics: Statistics,
    policy: Policy,
    criterion: str | Sequence[str] | Score | None,
    how: Compensation,
    planner: Planner | None,
) -> SlimPlan:
    plan = thresholds.analyze(program, sites, statistics, policy, criterion)
    noted = {**plan.policy, "compensation": how}
    if planner is None:
        return replace(plan, policy=noted)
    return planner.with_adapter_maps(planner.plan(dict(plan.sites), noted))


def planner_for(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    method: Method,
    compensation: Compensation = "none",
) -> Planner | None:
    """Make what solves for weights, to be shared by several calls of `analyze`.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: of a calibration of this program.
        method: one of `RECIPES`.
        compensation: for `threshold`.

    Returns:
        The planner; None for `threshold` where nothing is solved for and no second moments were taken.

    Raises:
        UsageError: the statistics lack what the method needs.
        CalibrationError: they hold nothing.
    """
    if method != "threshold":
        return Planner(program, tuple(sites), statistics, RECIPES[method])
    if not statistics.moments and compensation == "none":
        return None
    return Planner(program, tuple(sites), statistics, RECIPES[method], compensation)


def _by_error(
    planner: Planner, policy: Keep | MaxError, method: Method, statistics: Statistics, on_site: OnSite
) -> SlimPlan:
    noted: dict[str, Any] = {"method": method, "samples": statistics.samples, "calls": statistics.calls}
    if policy.align is not None:
        noted["align"] = policy.align
    if policy.uniform:
        noted["uniform"] = True
    if isinstance(policy, MaxError):
        return planner.with_adapter_maps(planner.within_error(policy, noted, on_site))
    return planner.with_adapter_maps(planner.within_cost(policy, noted, on_site))


def choose_method(
    method: str | None,
    policy: object,
    criterion: str | Sequence[str] | Score | None = None,
    compensation: str | None = None,
) -> Method:
    """Find out which method is meant; of policies, `Threshold`, `MaxError` and None make a difference.

    Raises:
        UsageError: an unknown name, or one that doesn't take the policy, criterion or compensation.
    """
    by_score = isinstance(policy, Threshold) or bool(criterion) or compensation is not None
    if method is None:
        method = "threshold" if by_score else "best"
    if method not in tuple(RECIPES):  # which may be of any kind, such as a list
        raise UsageError(f"unknown method {method!r}; there are {', '.join(RECIPES)}")
    if by_score and method != "threshold":
        raise UsageError(
            f'a threshold, a criterion or a compensation is for `method="threshold"`; {method} takes a budget'
        )
    if method == "threshold" and getattr(policy, "uniform", False):
        raise UsageError(
            "a threshold gives each site its own size, and predicts no error by which a common one could be chosen: "
            'leave `uniform` out, or choose `method="best"`'
        )
    if method == "obs" and policy is None:
        raise UsageError(
            '`method="obs"` takes the same share of each site: say how much, by `KeepParams`, `KeepMacs` or '
            "`KeepLatency`"
        )
    if isinstance(policy, MaxError) and method in ("threshold", "obs"):
        raise UsageError(
            f'`method="{method}"` predicts nothing to hold against `MaxError`; give it a budget, or use best'
        )
    return method
