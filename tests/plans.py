"""Plans and captured toy denoisers for tests."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import torch

from passes.plan.fingerprint import plan_for
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.plan.updates import slim_shapes
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.kinds import kind_of
from slimdiff_fx.denoisers.families import capture_denoiser
from tests.toy_denoisers import FAMILIES


@functools.cache
def captured(family: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Program:
    """Capture a toy denoiser once; transforms leave their input alone, so tests can share it."""
    return capture_denoiser(FAMILIES[family](seed, dtype))


def plan_of(program: Program, kept: dict[str, tuple[int, ...]] | None = None) -> SlimPlan:
    """Keep the given units of the given sites, and everything else."""
    sites = find_sites(program)
    chosen = kept or {}
    assert chosen.keys() <= {site.name for site in sites}
    entries = {s.name: SitePlan(s.kind, s.units, chosen.get(s.name, tuple(range(s.units)))) for s in sites}
    return plan_for(program, sites, entries, {"made_by": "a test"})


def random_plan(program: Program, seed: int, touched: float = 0.8) -> SlimPlan:
    """Keep a random part of each site, at least one unit; some sites stay whole."""
    draw = random.Random(seed)
    kept: dict[str, tuple[int, ...]] = {}
    for site in find_sites(program):
        if draw.random() < touched:
            kept[site.name] = tuple(sorted(draw.sample(range(site.units), draw.randint(1, site.units))))
    return plan_of(program, kept)


def updated_plan(program: Program, seed: int) -> SlimPlan:
    """Keep a random part of each site, make heads narrower where that can be, and give new weights to most linears."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(program.graph_module.named_parameters())
    plan = random_plan(program, seed)
    entries, updates = {}, {}
    for site in find_sites(program):
        entry = plan.sites[site.name]
        if kind_of(site.kind).narrowable(site) and draw.random() < 0.8:
            entry = replace(entry, width=draw.randint(1, site.unit_width))
        entries[site.name] = entry
        for name, shape in slim_shapes(site, entry, parameters):
            if entry.width is not None or draw.random() < 0.5:
                dense = parameters[name].detach()
                noise = torch.randn(shape, generator=generator, dtype=torch.float64)
                updates[name] = (noise * dense.double().std(correction=0) + dense.double().mean()).to(dense)
    return replace(plan, sites=entries, updates=updates)
