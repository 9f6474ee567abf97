"""From second moments to a plan: error curves, sensitivities, one optimum, new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from passes.adapter_maps import adapter_maps
from passes.alignment import is_aligned
from passes.allocate import budget_name, price_list, unmet
from passes.compensation import Compensated, Compensation, compensate, consumer_inputs
from passes.cost_table import CostTable, params_table
from passes.error_curves import Choice, ErrorCurve, leverage_curve, narrows, removal_curve, width_curve
from passes.families import families, joined, sizes_of, spread
from passes.fingerprint import fingerprint
from passes.moments import covariance, sums_of
from passes.optimize import Option, allocate_within_cost, allocate_within_error
from passes.plan import SitePlan, SlimPlan
from passes.policies import Budget, MaxError
from passes.program import Program
from passes.sensitivity import Prober, Sensitivity, sensitivity_from
from passes.site import Site
from passes.statistics import Statistics

_TRIALS = 4  # plans whose whole error is measured, in search of the one that just meets a largest error
_CLOSE = 0.9  # of the largest error: near enough
OnSite = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Recipe:
    """What a method is made of.

    Attributes:
        heads: "narrow" makes all heads of a site narrower, where that can be; "remove" takes whole heads.
        neurons: chosen by backward "elimination" or by ridge "leverage".
        joint: refit across the heads of a site, on covariances. Otherwise each head by itself, on second moments, as
            spectral slimming was published.
        weighing: how a site's error counts: "sensitivity" measures what it does to the prediction, "relative"
            divides it by the energy of the block's output.
        uniform: the same share of each site, in place of the optimum.
        probed_shares: shares of a site at whose removal its sensitivity is measured.
    """

    heads: Literal["narrow", "remove"] = "narrow"
    neurons: Literal["elimination", "leverage"] = "elimination"
    joint: bool = True
    weighing: Literal["sensitivity", "relative"] = "sensitivity"
    uniform: bool = False
    probed_shares: tuple[float, ...] = (0.4, 0.75)


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
        self._program, self._sites, self._how = program, sites, compensation
        self._recipe = recipe if recipe is not None else Recipe()
        self._sums = {site.name: sums_of(site, statistics.moments) for site in sites}
        self._parameters: Mapping[str, Tensor] = dict(program.graph_module.named_parameters())
        self._prober = Prober(program, statistics.probes)
        self._cuts: dict[tuple[str, SitePlan], Compensated] = {}
        self._curves: dict[str, ErrorCurve] = {}
        self._sensitivities: dict[str, Sensitivity] = {}

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

    def with_adapter_maps(self, plan: SlimPlan) -> SlimPlan:
        """Add what takes adapters of the dense model along: once, for it costs as much as solving for the weights."""
        changed = [(site, plan.sites[site.name]) for site in self._sites if _changes(site, plan.sites[site.name])]
        maps: dict[str, Tensor] = {}
        for site, entry in changed:
            maps.update(adapter_maps(site, entry, self._sums[site.name], self._compensate(site, entry)))
        return replace(plan, adapter_maps=maps)

    def within_cost(self, policy: Budget, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan of least expected error that meets a budget.

        Raises:
            BudgetError: the smallest size of each site is still more than the budget.
        """
        entries, additive = self.sizes_within(policy, on_site)
        return self.plan(entries, {**noted, "budget": {budget_name(policy): policy.fraction}}, additive)

    def sizes_within(self, policy: Budget, on_site: OnSite = untold) -> tuple[dict[str, SitePlan], float | None]:
        """Choose what stays of each site within a budget, without solving for any weight.

        Returns:
            By site what stays; and the prediction's expected relative squared error, summed over the sites, or None
            where the recipe predicts none.

        Raises:
            BudgetError: as `within_cost`.
        """
        costs, budget = price_list(self._program, self._sites, policy)
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
        return _entries(curves, chosen), additive if self._recipe.weighing == "sensitivity" else None

    def expected_errors(self, site: Site) -> list[tuple[Choice, float]]:
        """Give every size of a site with what it is expected to cost.

        That is its part in the prediction's relative squared error; or, where the recipe measures no sensitivities,
        the error at the block's output over that output's energy.
        """
        curve = self._curve(site, untold)
        if self._recipe.uniform:
            energy = curve.energy if curve.energy > 0 else 1.0
            return [(choice, choice.error / energy) for choice in curve.choices]
        return list(zip(curve.choices, self._predict(curve), strict=True))

    def within_error(self, policy: MaxError, noted: Mapping[str, Any], on_site: OnSite) -> SlimPlan:
        """Find the plan that removes most while its error, measured whole on the probes, stays within a limit.

        Errors of sites don't quite add up: the sum is held to a limit that is corrected by what was measured.
        """
        curves, options = self._options(params_table(self._program, self._sites), policy.align, on_site)
        offered, spread = self._alike(policy.uniform, curves, options)
        noted = {**noted, "max_error": policy.error}
        limit, best = policy.error, None
        for _ in range(_TRIALS):
            chosen = spread(allocate_within_error(offered, limit))
            additive = sum(option.error for option in chosen.values())
            plan = self.plan(
                _entries(curves, chosen), noted, additive if self._recipe.weighing == "sensitivity" else None
            )
            measured = float(plan.predicted["relative_mse"])
            if measured <= policy.error and (best is None or measured > best.predicted["relative_mse"]):
                best = plan
            if measured == 0 or _CLOSE * policy.error <= measured <= policy.error:
                break
            limit = additive * policy.error / measured * (1 + _CLOSE) / 2
        if best is not None:
            return best
        return self.plan({site.name: _whole(site) for site in self._sites}, noted)

    def _uniform(self, policy: Budget, costs: CostTable, budget: int, on_site: OnSite) -> dict[str, SitePlan]:
        """Take the same share from each site: the smallest at which the budget is met."""
        curves = [self._curve(site, on_site) for site in self._sites]
        offered = [_offered(curve, policy.align) for curve in curves]

        def cut(share: float) -> dict[str, SitePlan]:
            return {
                curve.site.name: curve.entry(_nearest(curve.site, choices, 1 - share))
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
            curve = curves[site.name] = self._curve(site, on_site)
            errors = self._predict(curve)
            options[site.name] = [
                Option(index, costs.of(site, choice.units, choice.width), error)
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
        found = families(self._sites, self._parameters)
        sizes = {
            name: sizes_of(curve.site, [(choice.units, choice.width) for choice in curve.choices])
            for name, curve in curves.items()
        }
        return joined(found, options, sizes), lambda chosen: spread(found, chosen, options, sizes)

    def _predict(self, curve: ErrorCurve) -> list[float]:
        """Give each choice's expected part in the error that is minimised."""
        if self._recipe.weighing == "relative":
            return [choice.error / curve.energy if curve.energy > 0 else 0.0 for choice in curve.choices]
        sensitivity = self._sensitivity(curve)
        errors: list[float] = []
        for choice in curve.choices:
            errors.append(max(sensitivity.predict(choice.error), errors[-1] if errors else 0.0))
        return errors

    def _sensitivity(self, curve: ErrorCurve) -> Sensitivity:
        site, points = curve.site, []
        if site.name not in self._sensitivities:
            for share in self._recipe.probed_shares:
                choice = _nearest(site, curve.choices, 1 - share)
                if choice is not curve.choices[0]:
                    entry = curve.entry(choice)
                    seen = self._prober.relative_mse([(site, entry, self._compensate(site, entry).updates)])
                    points.append((choice.error, seen))
            self._sensitivities[site.name] = sensitivity_from(points)
        return self._sensitivities[site.name]

    def _curve(self, site: Site, on_site: OnSite) -> ErrorCurve:
        if site.name not in self._curves:
            recipe, weight = self._recipe, self._parameters[f"{site.consumer}.weight"].detach().double().cpu()
            sums = self._sums[site.name]
            if recipe.joint:
                inputs = consumer_inputs(site, sums, self._parameters)
            else:
                inputs = covariance(site, sums, centred=False)
            if recipe.heads == "narrow" and narrows(site):
                curve = width_curve(site, weight, inputs, sums, joint=recipe.joint)
            elif recipe.neurons == "leverage" and site.kind == "feed_forward":
                curve = leverage_curve(site, weight, inputs)
            else:
                curve = removal_curve(site, weight, inputs)
            self._curves[site.name] = curve
            if recipe.weighing == "sensitivity" and not recipe.uniform:
                self._sensitivity(curve)
            on_site(len(self._curves), len(self._sites))
        return self._curves[site.name]

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
                as_published=not self._recipe.joint,
            )
        return self._cuts[place]


def _offered(curve: ErrorCurve, align: int | None) -> list[Choice]:
    return [each for each in curve.choices if is_aligned(curve.site, each.units, each.width, align)]


def _nearest(site: Site, choices: Sequence[Choice], share: float) -> Choice:
    """Give the choice whose size is nearest to a share of the whole site."""
    return min(choices, key=lambda each: abs(each.units * (each.width or site.unit_width) - share * site.width))


def _sized(site: Site, units: int, width: int | None) -> SitePlan:
    return SitePlan(site.kind, site.units, tuple(range(units)), width)


def _whole(site: Site) -> SitePlan:
    return _sized(site, site.units, None)


def _changes(site: Site, entry: SitePlan) -> bool:
    return len(entry.kept) < site.units or entry.width not in (None, site.unit_width)


def _entries(curves: Mapping[str, ErrorCurve], chosen: Mapping[str, Option]) -> dict[str, SitePlan]:
    return {name: curve.entry(curve.choices[chosen[name].index]) for name, curve in curves.items()}
