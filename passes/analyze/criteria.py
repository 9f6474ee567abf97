"""Say what a unit is worth, from the statistics: a criterion is a function and its record; high scores stay longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance, covariance, sums_of
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, UsageError
from passes.sites.kinds import kind_names, kinds
from passes.sites.site import Site
from passes.solve.elimination import leverage_scores, removal_losses
from passes.solve.reader import reader_inputs, reader_weight

Score = Callable[[Site, Statistics], Tensor]
OutputScore = Callable[[Site, Statistics, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A criterion by its name.

    Attributes:
        name: what it is chosen by.
        kinds: of sites that it scores; None for every kind.
        function: (site, statistics), and the model's parameters by path where it needs second moments; gives one score
            for each unit, float64 [units].
        needs: what calibration measures only when asked for: "attention_weights", "moments"; None for neither.
        statistic: the one that says the most of it and is kept by timestep, for the report; None if there is none.
    """

    name: str
    kinds: tuple[str, ...] | None
    function: Score | OutputScore
    needs: Literal["attention_weights", "moments"] | None = None
    statistic: str | None = None

    def scores(self, site: Site, statistics: Statistics, parameters: Mapping[str, Tensor] | None) -> Tensor:
        """Score a site's units, float64 [units].

        Raises:
            UsageError: the parameters are needed, and missing.
        """
        if self.needs != "moments":
            return self.function(site, statistics).double()  # type: ignore[call-arg]
        if parameters is None:
            raise UsageError(f"criterion {self.name!r} needs the model's parameters: pass them")
        return self.function(site, statistics, parameters)  # type: ignore[call-arg]


def mean_abs(site: Site, statistics: Statistics) -> Tensor:
    """Score a neuron by its mean magnitude, mean |a_i|; float64 [units]."""
    return statistics.mean(site.name, "abs")


def mean_square(site: Site, statistics: Statistics) -> Tensor:
    """Score a neuron by its mean energy, mean a_i²; float64 [units]."""
    return statistics.mean(site.name, "square")


def head_l2(site: Site, statistics: Statistics) -> Tensor:
    """Score a head by the mean L2 norm of its output, mean ‖o_j‖₂; float64 [units]."""
    return statistics.mean(site.name, "l2")


def head_l1(site: Site, statistics: Statistics) -> Tensor:
    """Score a head by the mean L1 norm of its output, mean ‖o_j‖₁; float64 [units]."""
    return statistics.mean(site.name, "l1")


def entropy(site: Site, statistics: Statistics) -> Tensor:
    """Score a head by its mean attention entropy in nats, float64 [units].

    A head of entropy zero looks at one token whatever it is shown, so it goes first. `confidence` takes the other side.
    """
    return statistics.mean(site.name, "entropy")


def confidence(site: Site, statistics: Statistics) -> Tensor:
    """Score a head by the mean of its largest attention weight, float64 [units]; heads that choose nothing go first."""
    return statistics.mean(site.name, "confidence")


def choose(names: str | Sequence[str] | None = None) -> dict[str, str]:
    """Find the criterion of each kind of site: the named ones, defaults for the rest.

    Example:
        >>> choose("entropy")
        {'attention': 'entropy', 'feed_forward': 'mean_abs'}

    Raises:
        UsageError: an unknown name, or two for the same kind.
    """
    given = [names] if isinstance(names, str) else names or []
    chosen: dict[str, str] = {}
    for name in given:
        if name not in CRITERIA:
            known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in _names_by_kind().items())
            raise UsageError(f"unknown criterion {name!r}; there are {known}")
        scored = CRITERIA[name].kinds or kind_names()
        taken = next((kind for kind in scored if chosen.get(kind, name) != name), None)
        if taken is not None:
            raise UsageError(f"criteria {chosen[taken]!r} and {name!r} are both for {taken} sites: give one")
        chosen |= dict.fromkeys(scored, name)
    return {kind.name: kind.criterion for kind in kinds()} | chosen


def _names_by_kind() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, criterion in CRITERIA.items():
        for kind in criterion.kinds or ("every kind",):
            found.setdefault(kind, []).append(name)
    return found


def needs_attention_weights(criterion: str | Sequence[str] | None) -> bool:
    """Tell whether a criterion, given by name, looks at attention's weights: calibration must then measure them."""
    return any(CRITERIA[name].needs == "attention_weights" for name in choose(criterion).values())


def check_measured(statistics: Statistics, criterion: str | Sequence[str] | None) -> None:
    """Refuse a criterion, given by name, that looks at attention's weights where calibration didn't.

    Raises:
        UsageError: says how to calibrate.
    """
    for name in sorted(set(choose(criterion).values())):
        if CRITERIA[name].needs == "attention_weights" and not any(name in sums for sums in statistics.sites.values()):
            raise UsageError(
                f"the statistics lack attention's {name}, which is measured only when asked for: calibrate again with "
                "`attention_weights=True`"
            )


def score(
    sites: Sequence[Site],
    statistics: Statistics,
    criterion: str | Sequence[str] | Score | None = None,
    *,
    parameters: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Score every unit of every site.

    Args:
        sites: what to score.
        statistics: of the model the sites are of.
        criterion: a criterion's name, several (one for each kind), a function for all sites, or None for defaults.
        parameters: the model's, by path; criteria that know the output need them.

    Returns:
        By site name, float64 [units]; comparable within a site only.

    Raises:
        UsageError: unknown criterion, or a site or statistic that was not measured.
        CalibrationError: a score that is not finite, negative, or of another shape than the site.
    """
    scores = {}
    names = {} if callable(criterion) else choose(criterion)
    looks = any(names and CRITERIA[names[site.kind]].needs == "attention_weights" for site in sites)
    if looks and not callable(criterion):
        check_measured(statistics, criterion)
    for site in sites:
        if callable(criterion):
            values = criterion(site, statistics).double()
        else:
            values = CRITERIA[names[site.kind]].scores(site, statistics, parameters)
        check_scores(site, values)
        scores[site.name] = values
    return scores


def check_scores(site: Site, scores: Tensor) -> None:
    """Refuse scores that can't rank the site's units.

    Raises:
        CalibrationError: not finite, negative, or of another shape than [units].
    """
    if tuple(scores.shape) != (site.units,):
        raise CalibrationError(f"site {site.name!r} has {site.units} units but scores of shape {list(scores.shape)}")
    if not bool(torch.isfinite(scores).all()) or bool((scores < 0).any()):
        raise CalibrationError(f"site {site.name!r} has scores that are not finite or negative: calibrate again")


def contribution(site: Site, statistics: Statistics, parameters: Mapping[str, Tensor]) -> Tensor:
    """Score a unit by the energy that it adds to its block's output, tr(W_j E[a_j a_jᵀ] W_jᵀ); float64 [units].

    For neurons this is Wanda's score squared and summed over outputs.
    """
    inputs = covariance(site, sums_of(site, statistics.moments), centred=False)
    return _energies(site, inputs, parameters)


def fluctuation(site: Site, statistics: Statistics, parameters: Mapping[str, Tensor]) -> Tensor:
    """Score a unit by the variance that it adds to its block's output, the mean left to the bias (FLAP, AAAI 2024).

    Returns:
        float64 [units].
    """
    inputs = covariance(site, sums_of(site, statistics.moments))
    return _energies(site, inputs, parameters)


def obs(site: Site, statistics: Statistics, parameters: Mapping[str, Tensor]) -> Tensor:
    """Score a unit by the error that its removal leaves once all others are refitted (OBS), float64 [units].

    Each unit is looked at by itself; `--method obs` removes one after the other.
    """
    inputs = reader_inputs(site, sums_of(site, statistics.moments), parameters)
    return removal_losses(reader_weight(site, parameters), inputs, site.units)


def leverage(site: Site, statistics: Statistics, parameters: Mapping[str, Tensor]) -> Tensor:
    """Score a unit by its ridge leverage, summed over its channels (MoDeGPT, arXiv 2408.09632); float64 [units]."""
    inputs = covariance(site, sums_of(site, statistics.moments), centred=False)
    return leverage_scores(inputs).reshape(site.units, -1).sum(1)


def _energies(site: Site, inputs: Covariance, parameters: Mapping[str, Tensor]) -> Tensor:
    weight = reader_weight(site, parameters)
    blocks = weight.reshape(len(weight), site.units, site.unit_width).transpose(0, 1)
    places = torch.arange(site.width).reshape(site.units, site.unit_width)
    own = inputs.matrix[places.unsqueeze(2), places.unsqueeze(1)]  # [units, width, width]
    return ((blocks @ own) * blocks).sum((1, 2)).clamp_min(0)


CRITERIA: Mapping[str, Criterion] = {
    each.name: each
    for each in (
        Criterion("mean_abs", ("feed_forward",), mean_abs, statistic="abs"),
        Criterion("mean_square", ("feed_forward",), mean_square, statistic="square"),
        Criterion("l2", ("attention",), head_l2, statistic="l2"),
        Criterion("l1", ("attention",), head_l1, statistic="l1"),
        Criterion("entropy", ("attention",), entropy, "attention_weights", "entropy"),
        Criterion("confidence", ("attention",), confidence, "attention_weights", "confidence"),
        Criterion("contribution", None, contribution, "moments"),
        Criterion("fluctuation", None, fluctuation, "moments"),
        Criterion("obs", None, obs, "moments"),
        Criterion("leverage", None, leverage, "moments"),
    )
}
