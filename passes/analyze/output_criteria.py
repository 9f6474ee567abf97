"""Scores that know the output: what the consumer makes of a unit, from second moments and the consumer's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance, covariance, sums_of
from passes.calibrate.statistics import Statistics
from passes.sites.site import Site
from passes.solve.compensation import consumer_inputs
from passes.solve.elimination import leverage_scores, removal_losses

OutputCriterion = Callable[[Site, Statistics, Mapping[str, Tensor]], Tensor]


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
    inputs = consumer_inputs(site, sums_of(site, statistics.moments), parameters)
    return removal_losses(parameters[f"{site.consumer}.weight"].detach().cpu(), inputs, site.units)


def leverage(site: Site, statistics: Statistics, parameters: Mapping[str, Tensor]) -> Tensor:
    """Score a unit by its ridge leverage, summed over its channels (MoDeGPT, arXiv 2408.09632); float64 [units]."""
    inputs = covariance(site, sums_of(site, statistics.moments), centred=False)
    return leverage_scores(inputs).reshape(site.units, -1).sum(1)


OUTPUT_CRITERIA: Mapping[str, OutputCriterion] = {
    "contribution": contribution,
    "fluctuation": fluctuation,
    "obs": obs,
    "leverage": leverage,
}


def _energies(site: Site, inputs: Covariance, parameters: Mapping[str, Tensor]) -> Tensor:
    weight = parameters[f"{site.consumer}.weight"].detach().double().cpu()
    blocks = weight.reshape(len(weight), site.units, site.unit_width).transpose(0, 1)
    places = torch.arange(site.width).reshape(site.units, site.unit_width)
    own = inputs.matrix[places.unsqueeze(2), places.unsqueeze(1)]  # [units, width, width]
    return ((blocks @ own) * blocks).sum((1, 2)).clamp_min(0)
