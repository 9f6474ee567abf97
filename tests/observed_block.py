"""A calibrated toy block with enough neurons to round: plans of it take milliseconds."""

from __future__ import annotations

from functools import cache

import torch

from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site
from tests.toy_block import build, capture_block, samples

Observed = tuple[Program, tuple[Site, ...], Statistics]


@cache
def observed_block() -> Observed:
    """Give the program, its sites (3 heads of 4, 40 neurons) and statistics with second moments."""
    program = capture_block(build(neurons=40))
    sites = find_sites(program)
    watched = instrument(program, sites, moments=True)
    return program, sites, calibrate(watched, [((samples(4, seed), torch.tensor(5 * seed)), {}) for seed in range(6)])
