"""The split-half test: near 1 on a large set, larger on a small one."""

from __future__ import annotations

import torch

from passes.calibrate import calibrate
from passes.instrument import instrument
from passes.settled import SETTLED, split_half_ratio
from passes.statistics import Statistics
from tests.toy_block import samples, toy


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
