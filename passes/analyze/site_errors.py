"""What each size of a site is expected to cost, by a recipe: its error curve, and what that does to the prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from passes.analyze.sensitivity import Prober, Sensitivity, sensitivity_from
from passes.calibrate.moments import covariance, sums_of
from passes.calibrate.statistics import Statistics
from passes.names import Compensation
from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.sites.kinds import kind_of
from passes.sites.site import Site
from passes.solve.compensation import Compensated
from passes.solve.error_curves import Choice, ErrorCurve
from passes.solve.known_moments import UNKNOWN
from passes.solve.reader import reader_inputs, reader_weight
from passes.solve.recipes import Recipe

OnSite = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    """Report nothing: what `on_site` is where nobody watches."""


class SiteErrors:
    """Error curves, new weights and sensitivities of a program's sites, each computed once.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: with second moments and probes.
        recipe: what to do.
        how: what the kept units make up for, where whole units go.

    Attributes:
        prober: measures what changes do to the prediction.

    Raises:
        UsageError: the statistics have no second moments.
        CalibrationError: they have no probes, or hold nothing.
    """

    def __init__(
        self, program: Program, sites: Sequence[Site], statistics: Statistics, recipe: Recipe, how: Compensation
    ) -> None:
        self._recipe, self._how, self._count = recipe, how, len(sites)
        self._sums = {site.name: sums_of(site, statistics.moments) for site in sites}
        self._parameters: Mapping[str, Tensor] = dict(program.graph_module.named_parameters())
        self.prober = Prober(program, statistics.probes)
        self._cuts: dict[tuple[str, SitePlan], Compensated] = {}
        self._curves: dict[str, ErrorCurve] = {}
        self._sensitivities: dict[str, Sensitivity] = {}

    def sums(self, site: Site) -> Mapping[str, Tensor]:
        """Give a site's second moments."""
        return self._sums[site.name]

    def curve(self, site: Site, on_site: OnSite = ignore_progress) -> ErrorCurve:
        """Give a site's error curve; `on_site` is called where the curve was not computed before."""
        if site.name not in self._curves:
            self._curves[site.name] = self._new_curve(site)
            if self._recipe.weighing == "sensitivity" and not self._recipe.uniform:
                self._sensitivity(site)
            on_site(len(self._curves), self._count)
        return self._curves[site.name]

    def predict(self, site: Site) -> list[float]:
        """Give each choice's expected part in the error that is minimised. The whole has none; it never falls."""
        curve = self.curve(site)
        if self._recipe.weighing == "relative" or self._recipe.uniform:
            return [choice.error / curve.energy if curve.energy > 0 else 0.0 for choice in curve.choices]
        sensitivity = self._sensitivity(site)
        errors = [0.0]
        for choice in curve.choices[1:]:
            errors.append(max(sensitivity.predict(choice.error), errors[-1]))
        return errors

    def rounding(self, site: Site) -> float:
        """Say by how much two of a site's expected parts may differ and be the same."""
        curve = self.curve(site)
        if self._recipe.weighing == "relative" or self._recipe.uniform:
            return curve.rounding / curve.energy if curve.energy > 0 else 0.0
        return curve.rounding * max(self._sensitivity(site).ratios, default=0.0)

    def compensate(self, site: Site, entry: SitePlan) -> Compensated:
        """Solve for the new weights of a site."""
        place = (site.name, entry)
        if place not in self._cuts:
            self._cuts[place] = kind_of(site.kind).compensate(
                site,
                entry,
                self._sums[site.name],
                self._parameters,
                self._how,
                implied_scale=self.prober.scale_is_implied(site),
                as_published=not self._recipe.joint,
            )
        return self._cuts[place]

    def hold(self, site: Site, choice: Choice) -> bool:
        """Hold a choice to what its weights do, as they are stored: raise the curve where that is more than it says.

        Returns:
            Whether it was raised.
        """
        curve = self.curve(site)
        if choice is curve.choices[0]:
            return False
        error = self.compensate(site, curve.entry(choice)).error
        if error <= choice.error:
            return False
        self._curves[site.name] = curve.raised(choice, error)
        return True

    def _sensitivity(self, site: Site) -> Sensitivity:
        if site.name not in self._sensitivities:
            measured = []
            for at in self._probed(site):
                self.hold(site, self._curves[site.name].choices[at])
                curve = self._curves[site.name]
                entry = curve.entry(curve.choices[at])
                measured.append((at, self.prober.relative_mse([(site, entry, self.compensate(site, entry).updates)])))
            choices = self._curves[site.name].choices
            self._sensitivities[site.name] = sensitivity_from([(choices[at].error, seen) for at, seen in measured])
        return self._sensitivities[site.name]

    def _probed(self, site: Site) -> list[int]:
        """Say at which choices a site's sensitivity is measured.

        Beside those of the recipe, at the smallest width that looks free, if any does: what a head loses where no
        sampled token was is not in its own error, which says there only how much the moments may have overlooked.
        Errors of whole units that go hold what is unseen to λ, and need no such measurement.
        """
        curve = self._curves[site.name]
        shares = self._recipe.probed_shares
        places = [curve.choices.index(nearest(site, curve.choices, 1 - share)) for share in shares]
        if curve.choices[-1].width is not None:
            free = [at for at, choice in enumerate(curve.choices) if choice.error <= UNKNOWN * curve.energy]
            places.append(free[-1])
        return sorted({at for at in places if at > 0})

    def _new_curve(self, site: Site) -> ErrorCurve:
        sums = self._sums[site.name]
        weight = reader_weight(site, self._parameters)
        if self._recipe.joint:
            inputs = reader_inputs(site, sums, self._parameters)
        else:
            inputs = covariance(site, sums, centred=False)
        curve: ErrorCurve = kind_of(site.kind).curve(site, weight, inputs, sums, self._recipe)
        return curve


def nearest(site: Site, choices: Sequence[Choice], share: float) -> Choice:
    """Give the choice whose size is nearest to a share of the whole site; of two equally near, the larger.

    Choices come largest first. Distances are equal within 2⁻⁵⁰ of the site: shares are computed in float64.
    """
    target = share * site.width
    away = [abs(each.units * (each.width or site.unit_width) - target) for each in choices]
    close = min(away) + 4 * torch.finfo(torch.float64).eps * site.width
    return next(choice for choice, distance in zip(choices, away, strict=True) if distance <= close)
