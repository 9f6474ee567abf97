"""Methods by name: how statistics and a policy become a plan.

| method | heads | neurons | refit | allocation |
|---|---|---|---|---|
| best | made narrower | backward elimination | across the site | optimum of predicted errors |
| slimdiff | made narrower, each by itself | ridge leverage (Nyström) | per module | optimum of relative site errors |
| obs | backward elimination | backward elimination | across the site | the same share of each site |
| threshold | by a score | by a score | if asked for | one global threshold |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from passes import allocate as thresholds
from passes.allocate import KeepMacs, KeepParams, MaxError, Policy, Threshold, check_statistics, price_list, unmet
from passes.compensation import Compensated, Compensation, compensate, consumer_inputs
from passes.costs import entry_cost
from passes.criteria import Criterion
from passes.error_curves import ErrorCurve, leverage_curve, removal_curve, width_curve, widths_offered
from passes.errors import UsageError
from passes.fingerprint import fingerprint
from passes.moments import covariance, sums_of
from passes.optimize import Option, allocate_within_cost, allocate_within_error
from passes.plan import SitePlan, SlimPlan
from passes.program import Program
from passes.sensitivity import Prober, Sensitivity, sensitivity_from
from passes.site import Site
from passes.statistics import Statistics

Method = Literal["best", "slimdiff", "obs", "threshold"]
METHODS: tuple[Method, ...] = ("best", "slimdiff", "obs", "threshold")

# Shares of a site at whose removal its sensitivity is measured.
PROBED_SHARES = (0.4, 0.75)
_TRIALS = 4  # plans whose whole error is measured, in search of the one that just meets a largest error
_CLOSE = 0.9  # of the largest error: near enough
OnSite = Callable[[int, int], None]


def analyze(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    policy: Policy | None = None,
    criterion: str | Sequence[str] | Criterion | None = None,
    *,
    method: str | None = None,
    compensation: Compensation | None = None,
    on_site: OnSite = lambda done, total: None,
) -> SlimPlan:
    """Plan from statistics.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: of a calibration of this program; every method but `threshold` needs its second moments.
        policy: how much goes. By default as much as `MaxError()` allows, or what reaches `Threshold()` for that method.
        criterion: for `threshold`, as `passes.criteria.score` takes it.
        method: one of `METHODS`; by default `threshold` where a threshold or a criterion is given, and else `best`.
        compensation: for `threshold`: "none" (default), "bias" or "lstsq".
        on_site: told how many sites have been analyzed, of how many.

    Returns:
        A plan with its updates and, where probes were kept, its predicted error.

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
        plan = thresholds.analyze(program, sites, statistics, policy or Threshold(), criterion)
        entries = dict(plan.sites)
        how: Compensation = compensation or "none"
        noted = {**plan.policy, "compensation": how}
        if not statistics.moments and how == "none":
            return replace(plan, policy=noted)
        return _Planner(program, sites, statistics, "threshold", how).plan(entries, noted)
    planner = _Planner(program, sites, statistics, chosen, "lstsq")
    noted = {"method": chosen, "samples": statistics.samples, "calls": statistics.calls}
    policy = policy if policy is not None else MaxError()
    if isinstance(policy, MaxError):
        return planner.within_error(policy, noted, on_site)
    assert not isinstance(policy, Threshold)
    noted["budget"] = {"params" if isinstance(policy, KeepParams) else "macs": policy.fraction}
    if chosen == "obs":
        return planner.plan(planner.uniform(policy, on_site), noted)
    return planner.within_cost(policy, noted, on_site)


def choose_method(
    method: str | None,
    policy: Policy | None,
    criterion: str | Sequence[str] | Criterion | None = None,
    compensation: str | None = None,
) -> Method:
    """Find out which method is meant.

    Raises:
        UsageError: an unknown name, or one that doesn't take the policy, criterion or compensation.
    """
    by_score = isinstance(policy, Threshold) or bool(criterion) or compensation is not None
    if method is None:
        method = "threshold" if by_score else "best"
    named = [known for known in METHODS if known == method]
    if not named:
        raise UsageError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    if by_score and method != "threshold":
        raise UsageError(
            f"a threshold, a criterion or a compensation is for --method threshold; {method} takes a budget or --max-error"
        )
    if isinstance(policy, MaxError) and method in ("threshold", "obs"):
        raise UsageError(
            f"--method {method} predicts nothing to hold against --max-error; give it a budget, or use best"
        )
    return named[0]


class _Planner:
    """Everything that planning by second moments looks up again and again."""

    def __init__(
        self, program: Program, sites: tuple[Site, ...], statistics: Statistics, method: Method, how: Compensation
    ) -> None:
        self._program, self._sites, self._method, self._how = program, sites, method, how
        self._sums = {site.name: sums_of(site, statistics.moments) for site in sites}
        self._parameters: Mapping[str, Tensor] = dict(program.graph_module.named_parameters())
        self._prober = Prober(program, statistics.probes)
        self._cuts: dict[tuple[str, SitePlan], Compensated] = {}

    def plan(
        self, entries: Mapping[str, SitePlan], noted: Mapping[str, Any], additive: float | None = None
    ) -> SlimPlan:
        """Solve for the weights of every changed site, and measure the whole plan on the probes."""
        changed = [(site, entries[site.name]) for site in self._sites if _changes(site, entries[site.name])]
        cuts = [(site, entry, self._compensate(site, entry)) for site, entry in changed]
        measured = self._prober.relative_mse([(site, entry, cut.updates) for site, entry, cut in cuts]) if cuts else 0.0
        updates = {name: value for _, _, cut in cuts for name, value in cut.updates.items()}
        predicted: dict[str, Any] = {
            "relative_mse": measured,
            "sites": {site.name: {"site_error": cut.error} for site, _, cut in cuts},
        }
        if additive is not None:
            predicted["relative_mse_by_sensitivities"] = additive
        ordered = {site.name: entries[site.name] for site in self._sites}
        return SlimPlan(fingerprint(self._program, self._sites), ordered, dict(noted), updates, predicted)

    def within_cost(self, policy: KeepParams | KeepMacs, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan of least predicted error that meets a budget."""
        total, budget, whole = price_list(self._program, self._sites, policy)
        curves, options = self._options(whole, on_site)
        rest = total - sum(whole.values())
        least = rest + sum(min(option.cost for option in each) for each in options.values())
        if least > budget:
            raise unmet(policy, least, total, "the smallest size of each site")
        chosen = allocate_within_cost(options, budget - rest)
        additive = sum(option.error for option in chosen.values())
        return self.plan(_entries(curves, chosen), noted, additive if self._method == "best" else None)

    def within_error(self, policy: MaxError, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan that removes most parameters while its error, measured whole on the probes, stays within a limit.

        Errors of sites don't quite add up: the sum is held to a limit that is corrected by what was measured.
        """
        _, _, whole = price_list(self._program, self._sites, KeepParams(1.0))
        curves, options = self._options(whole, on_site)
        noted = {**noted, "max_error": policy.error}
        limit, best = policy.error, None
        for _ in range(_TRIALS):
            chosen = allocate_within_error(options, limit)
            additive = sum(option.error for option in chosen.values())
            plan = self.plan(_entries(curves, chosen), noted, additive if self._method == "best" else None)
            measured = float(plan.predicted["relative_mse"])
            if measured <= policy.error and (best is None or measured > best.predicted["relative_mse"]):
                best = plan
            if measured == 0 or _CLOSE * policy.error <= measured <= policy.error:
                break
            limit = additive * policy.error / measured * (1 + _CLOSE) / 2
        if best is not None:
            return best
        return self.plan({site.name: _whole(site) for site in self._sites}, noted)

    def uniform(self, policy: KeepParams | KeepMacs, on_site: OnSite) -> dict[str, SitePlan]:
        """Take the same share from each site, in the order of backward elimination."""
        total, budget, whole = price_list(self._program, self._sites, policy)
        least = total - sum(whole[site.name] // site.units * (site.units - 1) for site in self._sites)
        if least > budget:
            raise unmet(policy, least, total, "one unit left in each site")
        curves = []
        for number, site in enumerate(self._sites, start=1):
            curves.append(self._curve(site))
            on_site(number, len(self._sites))

        def cut(share: float) -> dict[str, SitePlan]:
            keep = {curve.site.name: max(1, curve.site.units - round(share * curve.site.units)) for curve in curves}
            return {
                curve.site.name: curve.entry(replace(curve.choices[0], units=keep[curve.site.name])) for curve in curves
            }

        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            entries = cut(share)
            left = total - sum(
                whole[site.name] - entry_cost(whole[site.name], site, entries[site.name]) for site in self._sites
            )
            low, high = (low, share) if left <= budget else (share, high)
        return cut(high)

    def _options(
        self, whole: Mapping[str, int], on_site: OnSite
    ) -> tuple[dict[str, ErrorCurve], dict[str, list[Option]]]:
        curves, options = {}, {}
        for number, site in enumerate(self._sites, start=1):
            curve = curves[site.name] = self._curve(site)
            errors = self._predict(curve)
            options[site.name] = [
                Option(index, entry_cost(whole[site.name], site, _sized(site, choice.units, choice.width)), error)
                for index, (choice, error) in enumerate(zip(curve.choices, errors, strict=True))
            ]
            on_site(number, len(self._sites))
        return curves, options

    def _predict(self, curve: ErrorCurve) -> list[float]:
        """Give each choice's expected part in the prediction's relative squared error.

        `slimdiff` measures nothing at the prediction: there it is the site's error relative to its block's output.
        """
        if self._method != "best":
            return [choice.error / curve.energy if curve.energy > 0 else 0.0 for choice in curve.choices]
        sensitivity = self._sensitivity(curve)
        errors: list[float] = []
        for choice in curve.choices:
            errors.append(max(sensitivity.predict(choice.error), errors[-1] if errors else 0.0))
        return errors

    def _sensitivity(self, curve: ErrorCurve) -> Sensitivity:
        site, points = curve.site, []
        sizes = [choice.units * (choice.width or site.unit_width) for choice in curve.choices]
        for share in PROBED_SHARES:
            index = min(range(len(sizes)), key=lambda each: abs(sizes[each] - (1 - share) * site.width))
            if index:
                entry = curve.entry(curve.choices[index])
                cut = self._compensate(site, entry)
                seen = self._prober.relative_mse([(site, entry, cut.updates)])
                points.append((curve.choices[index].error, seen))
        return sensitivity_from(points)

    def _curve(self, site: Site) -> ErrorCurve:
        weight = self._parameters[f"{site.consumer}.weight"].detach().double().cpu()
        sums = self._sums[site.name]
        if self._method == "slimdiff":
            inputs = covariance(site, sums, centred=False)
        else:
            inputs = consumer_inputs(site, sums, self._parameters)
        if self._method != "obs" and site.narrowable and widths_offered(site):
            return width_curve(site, weight, inputs, joint=self._method != "slimdiff")
        if self._method == "slimdiff" and site.kind == "feed_forward":
            return leverage_curve(site, weight, inputs)
        return removal_curve(site, weight, inputs)

    def _compensate(self, site: Site, entry: SitePlan) -> Compensated:
        place = (site.name, entry)
        if place not in self._cuts:
            self._cuts[place] = compensate(
                site,
                entry,
                self._sums[site.name],
                self._parameters,
                self._how,
                implied_scale=self._prober.scale_is_implied(site),
                as_published=self._method == "slimdiff",
            )
        return self._cuts[place]


def _sized(site: Site, units: int, width: int | None) -> SitePlan:
    return SitePlan(site.kind, site.units, tuple(range(units)), width)


def _whole(site: Site) -> SitePlan:
    return _sized(site, site.units, None)


def _changes(site: Site, entry: SitePlan) -> bool:
    return len(entry.kept) < site.units or entry.width not in (None, site.unit_width)


def _entries(curves: Mapping[str, ErrorCurve], chosen: Mapping[str, Option]) -> dict[str, SitePlan]:
    return {name: curve.entry(curve.choices[chosen[name].index]) for name, curve in curves.items()}
