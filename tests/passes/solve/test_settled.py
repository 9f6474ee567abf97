"""The split-half test: near 1 on a large set, larger on a small one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.moments import COUNT, FIRST, SECOND, covariance
from passes.calibrate.statistics import Statistics
from passes.solve.settled import SETTLED, _lost, split_half_ratio
from tests.covariances import attention, random_weight
from tests.sites import linear_site
from tests.toy_block import samples, toy

SHAPES = ((2, 3), (3, 2), (4, 5))


def observe(batches: int, size: int) -> Statistics:
    watched = instrument(*toy(), moments=True)
    return calibrate(watched, [((samples(size, seed), torch.tensor(seed % 1000)), {}) for seed in range(batches)])


def ratio(statistics: Statistics) -> float | None:
    program, sites = toy()
    return split_half_ratio(sites, statistics, dict(program.graph_module.named_parameters()))


def test_many_samples_settle_and_few_do_not() -> None:
    few, many = ratio(observe(2, 1)), ratio(observe(60, 16))
    assert few is not None
    assert many is not None
    assert 1 - 1e-6 <= many < 1.05 < SETTLED < few


def test_equal_halves_have_nothing_between_them() -> None:
    watched = instrument(*toy(), moments=True)
    batch = ((samples(8, 1), torch.tensor(10)), {})
    found = ratio(calibrate(watched, [batch, batch]))
    assert found is not None
    assert abs(found - 1) < 1e-6


def test_one_batch_says_nothing() -> None:
    assert ratio(observe(1, 8)) is None


def test_the_median_of_both_directions_of_all_sites_by_hand() -> None:
    """Halves of unequal size, of three attentions of unequal width."""
    sites = [
        linear_site(f"s{heads}", "attention", heads, width, ("q", "k", "v"), f"out{heads}") for heads, width in SHAPES
    ]
    parameters = {f"{site.tap}.weight": random_weight(5, site.width, site.units) for site in sites}
    moments, halves, ratios = {}, {}, []
    for site in sites:
        parts = []
        for seed, count in ((1, 30.0), (2, 200.0)):
            rows = random_weight(int(count), site.width, 10 * site.units + seed) @ random_weight(
                site.width, site.width, seed
            )
            parts.append({COUNT: torch.tensor(count).double(), FIRST: rows.sum(0), SECOND: rows.T @ rows})
        odd, even = parts
        halves[site.name] = odd
        moments[site.name] = {name: odd[name] + even[name] for name in odd}
        weight = parameters[f"{site.tap}.weight"]
        for mine, others in ((odd, even), (even, odd)):
            second = mine[SECOND] / mine[COUNT]  # there is no bias to take the mean over
            own, foreign = (_lost(site, weight, covariance(site, each, centred=False)) for each in (mine, others))
            ratios.append(float(torch.trace(foreign @ second @ foreign.T) / torch.trace(own @ second @ own.T)))
    statistics = replace(observe(1, 1), moments=moments, halves=halves)
    found = split_half_ratio(sites, statistics, parameters)
    assert len({round(ratio, 6) for ratio in ratios}) == 6
    assert found == pytest.approx(sum(sorted(ratios)[2:4]) / 2, rel=1e-6)
    heads_of_one = [*sites, replace(attention(3, 1), name="narrow")]  # can't be narrowed: says nothing
    assert split_half_ratio(heads_of_one, replace(statistics, halves={**halves, "narrow": {}}), parameters) == found
    assert split_half_ratio(sites, replace(statistics, halves={}), parameters) is None
