"""From second moments to a plan: error curves, sensitivities, one optimum, new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from passes.analyze.families import families, joined, sizes_of, spread
from passes.analyze.optimize import Option, allocate_within_cost, allocate_within_error
from passes.analyze.site_errors import OnSite, SiteErrors, ignore_progress, nearest
from passes.calibrate.statistics import Statistics
from passes.names import Compensation
from passes.plan.alignment import is_aligned
from passes.plan.costs import CostTable, params_table
from passes.plan.fingerprint import plan_for
from passes.plan.policies import Keep, MaxError, price_list, unmet
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.site import Site
from passes.solve.adapter_maps import adapter_maps
from passes.solve.error_curves import Choice, ErrorCurve
from passes.solve.recipes import Recipe

_TRIALS = 4  # plans whose whole error is measured, in search of the one that just meets a largest error
_ROUNDS = 4  # times that sizes are chosen anew because the weights of some do worse than was expected
_CLOSE = 0.9  # of the largest error: near enough


class Planner:
    """Plans by one recipe from one calibration. What several budgets share is computed once.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: with second moments and probes.
        recipe: what to do.
        compensation: what the kept units make up for, where whole units go.

    Raises:
        UsageError: the statistics have no second moments.
        CalibrationError: they have no probes, or hold nothing.
    """

    def __init__(
        self,
        program: Program,
        sites: tuple[Site, ...],
        statistics: Statistics,
        recipe: Recipe | None = None,
        compensation: Compensation = "lstsq",
    ) -> None:
        self._program, self._sites = program, sites
        self._recipe = recipe if recipe is not None else Recipe()
        self._errors = SiteErrors(program, sites, statistics, self._recipe, compensation)

    def plan(
        self, entries: Mapping[str, SitePlan], noted: Mapping[str, Any], additive: float | None = None
    ) -> SlimPlan:
        """Solve for the weights of every changed site, and measure the whole plan on the probes."""
        changed = [(site, entries[site.name]) for site in self._sites if _changes(site, entries[site.name])]
        cuts = [(site, entry, self._errors.compensate(site, entry)) for site, entry in changed]
        measured = (
            self._errors.prober.relative_mse([(site, entry, cut.updates) for site, entry, cut in cuts]) if cuts else 0.0
        )
        updates = {name: value for _, _, cut in cuts for name, value in cut.updates.items()}
        predicted: dict[str, Any] = {
            "relative_mse": measured,
            "sites": {site.name: {"site_error": cut.error} for site, _, cut in cuts},
        }
        if additive is not None:
            predicted["relative_mse_by_sensitivities"] = additive
        ordered = {site.name: entries[site.name] for site in self._sites}
        return plan_for(self._program, self._sites, ordered, dict(noted), updates, predicted)

    def with_adapter_maps(self, plan: SlimPlan) -> SlimPlan:
        """Add what takes adapters of the dense model along: once, for it costs as much as solving for the weights."""
        changed = [(site, plan.sites[site.name]) for site in self._sites if _changes(site, plan.sites[site.name])]
        maps: dict[str, Tensor] = {}
        for site, entry in changed:
            maps.update(adapter_maps(site, entry, self._errors.sums(site), self._errors.compensate(site, entry)))
        return replace(plan, adapter_maps=maps)

    def within_cost(self, policy: Keep, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan of least expected error that meets a budget. One that all meets removes nothing.

        What is expected of the sizes in it is no less than what their weights do as they are stored: where it was, it
        is raised, and sizes are chosen anew.

        Raises:
            BudgetError: the smallest size of each site is still more than the budget.
        """
        entries, additive = self.sizes_within(policy, on_site)
        for _ in range(_ROUNDS):
            if self._recipe.uniform or not self._hold(entries):
                break
            entries, additive = self.sizes_within(policy, on_site)
        return self.plan(entries, {**noted, "budget": {policy.counts: policy.fraction}}, additive)

    def sizes_within(self, policy: Keep, on_site: OnSite = ignore_progress) -> tuple[dict[str, SitePlan], float | None]:
        """Choose what stays of each site within a budget, without solving for any weight.

        Returns:
            By site what stays; and the prediction's expected relative squared error, summed over the sites, or None
            where the recipe predicts none.

        Raises:
            BudgetError: as `within_cost`.
        """
        costs, budget = price_list(self._program, self._sites, policy)
        predicts = self._recipe.weighing == "sensitivity" and not self._recipe.uniform
        if costs.total <= budget:
            on_site(len(self._sites), len(self._sites))
            return {site.name: _whole(site) for site in self._sites}, 0.0 if predicts else None
        if self._recipe.uniform:
            return self._uniform(policy, costs, budget, on_site), None
        curves, options = self._options(costs, policy.align, on_site)
        offered, spread = self._alike(policy.uniform, curves, options)
        rest = costs.rest(self._sites)
        least = rest + sum(min(option.cost for option in each) for each in offered.values())
        if least > budget:
            raise unmet(policy, costs, least, "the smallest size of each site")
        chosen = spread(allocate_within_cost(offered, budget - rest))
        additive = sum(option.error for option in chosen.values())
        return _entries(curves, chosen), additive if predicts else None

    def expected_errors(self, site: Site) -> list[tuple[Choice, float]]:
        """Give every size of a site with what it is expected to cost.

        That is its part in the prediction's relative squared error; or, where the recipe measures no sensitivities,
        the error at the block's output over that output's energy.
        """
        return list(zip(self._errors.curve(site).choices, self._errors.predict(site), strict=True))

    def within_error(self, policy: MaxError, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan that removes most while its error, measured whole on the probes, stays within a limit.

        Errors of sites don't quite add up: the sum is held to a limit that is corrected by what was measured.
        """
        costs = params_table(self._program, self._sites)
        noted = {**noted, "max_error": policy.error}
        limit, best = policy.error, None
        for _ in range(_TRIALS):
            entries, additive = self._sizes_below(limit, costs, policy, on_site)
            plan = self.plan(entries, noted, additive if self._recipe.weighing == "sensitivity" else None)
            measured = float(plan.predicted["relative_mse"])
            if measured <= policy.error and (best is None or measured > best.predicted["relative_mse"]):
                best = plan
            if measured == 0 or _CLOSE * policy.error <= measured <= policy.error:
                break
            limit = additive * policy.error / measured * (1 + _CLOSE) / 2
        if best is not None:
            return best
        return self.plan({site.name: _whole(site) for site in self._sites}, noted)

    def _sizes_below(
        self, limit: float, costs: CostTable, policy: MaxError, on_site: OnSite
    ) -> tuple[dict[str, SitePlan], float]:
        """Choose the smallest sizes whose expected errors add up to a limit, held to what their weights do."""
        for _ in range(_ROUNDS):
            curves, options = self._options(costs, policy.align, on_site)
            offered, spread = self._alike(policy.uniform, curves, options)
            chosen = spread(allocate_within_error(offered, limit))
            entries = _entries(curves, chosen)
            if not self._hold(entries):
                break
        return entries, sum(option.error for option in chosen.values())

    def _hold(self, entries: Mapping[str, SitePlan]) -> bool:
        """Hold curves to what the weights of some sizes do; say whether any was raised."""
        raised = False
        for site in self._sites:
            entry = entries[site.name]
            if _changes(site, entry):
                choices = self._errors.curve(site).choices
                size = (len(entry.kept), entry.width)
                raised |= self._errors.hold(site, next(each for each in choices if (each.units, each.width) == size))
        return raised

    def _uniform(self, policy: Keep, costs: CostTable, budget: int, on_site: OnSite) -> dict[str, SitePlan]:
        """Take the same share from each site: the smallest at which the budget is met."""
        curves = [self._errors.curve(site, on_site) for site in self._sites]
        offered = [_offered(curve, policy.align) for curve in curves]

        def cut(share: float) -> dict[str, SitePlan]:
            return {
                curve.site.name: curve.entry(nearest(curve.site, choices, 1 - share))
                for curve, choices in zip(curves, offered, strict=True)
            }

        def left(share: float) -> int:
            return costs.kept(self._sites, cut(share))

        if left(1.0) > budget:
            raise unmet(policy, costs, left(1.0), "the smallest size of each site")
        low, high = 0.0, 1.0
        for _ in range(40):
            share = (low + high) / 2
            low, high = (low, share) if left(share) <= budget else (share, high)
        return cut(high)

    def _options(
        self, costs: CostTable, align: int | None, on_site: OnSite
    ) -> tuple[dict[str, ErrorCurve], dict[str, list[Option]]]:
        curves, options = {}, {}
        for site in self._sites:
            curve = curves[site.name] = self._errors.curve(site, on_site)
            errors, rounding = self._errors.predict(site), self._errors.rounding(site)
            options[site.name] = [
                Option(index, costs.of(site, choice.units, choice.width), error, rounding)
                for index, (choice, error) in enumerate(zip(curve.choices, errors, strict=True))
                if is_aligned(site, choice.units, choice.width, align)
            ]
        return curves, options

    def _alike(
        self, uniform: bool, curves: Mapping[str, ErrorCurve], options: Mapping[str, list[Option]]
    ) -> tuple[Mapping[str, list[Option]], Callable[[Mapping[str, Option]], Mapping[str, Option]]]:
        """Give what is chosen from, and what makes each site's option of it: families choose as one if uniform."""
        if not uniform:
            return options, lambda chosen: chosen
        found = families(self._sites, dict(self._program.graph_module.named_parameters()))
        sizes = {
            name: sizes_of(curve.site, [(choice.units, choice.width) for choice in curve.choices])
            for name, curve in curves.items()
        }
        return joined(found, options, sizes), lambda chosen: spread(found, chosen, options, sizes)


def _offered(curve: ErrorCurve, align: int | None) -> list[Choice]:
    return [each for each in curve.choices if is_aligned(curve.site, each.units, each.width, align)]


def _sized(site: Site, units: int, width: int | None) -> SitePlan:
    return SitePlan(site.kind, site.units, tuple(range(units)), width)


def _whole(site: Site) -> SitePlan:
    return _sized(site, site.units, None)


def _changes(site: Site, entry: SitePlan) -> bool:
    return len(entry.kept) < site.units or entry.width not in (None, site.unit_width)


def _entries(curves: Mapping[str, ErrorCurve], chosen: Mapping[str, Option]) -> dict[str, SitePlan]:
    return {name: curve.entry(curve.choices[chosen[name].index]) for name, curve in curves.items()}
