"""Three groups: each is solved for on what it sees behind all groups before it, with their new weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from passes.analyze.methods import analyze
from passes.analyze.sequential import solve_sequentially
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.moments import sums_of
from passes.calibrate.statistics import Statistics
from passes.capture.capture import capture
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove.masking import mask
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from passes.sites.site import Site
from passes.solve.adapter_maps import adapter_maps
from passes.solve.compensation import compensate
from tests.hand_modules import BATCH, TOKENS, WIDTH, Attention, FeedForward

BATCHES = [
    ((torch.randn(8, 6, WIDTH, generator=torch.Generator().manual_seed(seed)).double(),), {}) for seed in range(6)
]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = FeedForward(way="geglu"), Attention(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        x = x + self.second(x)
        return x + self.third(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(Blocks().double(), BATCHES[0][0], {}, ({0: BATCH, 1: TOKENS},), timestep=None)


def behind(plan: SlimPlan, sites: tuple[Site, ...]) -> SlimPlan:
    """Carry a plan out at some sites only."""
    names, paths = {site.name for site in sites}, {path for site in sites for path in site.paths}
    whole = {name: SitePlan(each.kind, each.units, tuple(range(each.units))) for name, each in plan.sites.items()}
    return replace(
        plan,
        sites={name: each if name in names else whole[name] for name, each in plan.sites.items()},
        updates={name: value for name, value in plan.updates.items() if name.rpartition(".")[0] in paths},
    )


def test_each_group_sees_all_before_it(program: Program) -> None:
    sites = find_sites(program)
    assert [site.name.partition(".")[0] for site in sites] == ["first", "second", "third"]
    seen: list[tuple[Program, tuple[Site, ...], Statistics]] = []

    def observe(program: Program, sites: tuple[Site, ...]) -> Statistics:
        found = calibrate(instrument(program, sites, moments=True), BATCHES)
        seen.append((program, sites, found))
        return found

    statistics = observe(program, sites)
    seen.clear()
    plan = analyze(program, sites, statistics, KeepParams(0.6), method="obs")
    assert all(any(name.startswith(site.tap) for name in plan.updates) for site in sites)
    found = solve_sequentially(program, sites, plan, statistics, observe, 3)
    assert [group for _, group, _ in seen] == [sites[1:2], sites[2:]]
    parameters = dict(program.graph_module.named_parameters())
    for number, (watched, (site,), statistics_there) in enumerate(seen, start=1):
        slim = rewrite(program, behind(found, sites[:number]))
        with torch.no_grad():
            torch.testing.assert_close(watched(*BATCHES[0][0]), slim(*BATCHES[0][0]), rtol=1e-10, atol=1e-10)
        sums = sums_of(site, statistics_there.moments)
        solved = compensate(site, plan.sites[site.name], sums, parameters)
        for name, value in solved.updates.items():
            assert torch.equal(found.updates[name], value)
        for path, value in adapter_maps(site, plan.sites[site.name], sums, solved).items():
            assert torch.equal(found.adapter_maps[path], value)
        assert found.predicted["sites"][site.name] == {"site_error": solved.error}
    # The first group keeps what it had.
    own = [name for name in plan.updates if name.rpartition(".")[0] in sites[0].paths]
    assert own
    assert all(torch.equal(found.updates[name], plan.updates[name]) for name in own)
    assert found.predicted["sites"][sites[0].name] == plan.predicted["sites"][sites[0].name]
    lost = energy = 0.0
    masked = mask(program, found)
    with torch.no_grad():
        for probe in statistics.probes:
            dense = program(*probe)
            lost += float((masked(*probe) - dense).square().sum())
            energy += float(dense.square().sum())
    assert found.predicted["relative_mse"] == pytest.approx(lost / energy, rel=1e-8)
