"""Instrumented programs: bitwise neutral, whatever the mode; states that continue to the same bits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from passes.calibrate.instrument import instrument
from passes.calibrate.observers import NeuronObserver
from passes.calibrate.statistics import merge
from passes.errors import CalibrationError, UsageError
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site
from tests.plans import captured
from tests.toy_block import build, capture_block, samples, site_of, toy


def structure(program: Program) -> list[tuple[str, str, str]]:
    return [(node.op, node.name, repr((node.target, node.args, node.kwargs))) for node in program.graph.nodes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("each", [False, True], ids=["one_timestep", "timesteps"])
def test_predictions_are_bitwise_those_of_the_plain_program(dtype: torch.dtype, each: bool) -> None:
    program, sites = toy(each, dtype)
    before = structure(program)
    watched = instrument(program, sites)
    timestep = torch.tensor([3, 700, 3, 999]) if each else torch.tensor(700)
    inputs = samples(4, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(watched(inputs, timestep), program(inputs, timestep))
    assert structure(program) == before
    assert watched.statistics().calls == 1


@pytest.mark.parametrize("weights", [False, True], ids=["light", "attention_weights"])
@pytest.mark.parametrize("family", ["unet_sd15", "pixart"])
def test_real_denoisers_are_watched_without_a_trace(family: str, weights: bool) -> None:
    program = captured(family)
    sites = find_sites(program)
    watched = instrument(program, sites, attention_weights=weights)
    with torch.no_grad():
        assert torch.equal(watched(*program.args, **program.kwargs), program(*program.args, **program.kwargs))
    statistics = watched.statistics()
    assert statistics.sites.keys() == {site.name for site in sites}
    for site in sites:
        heads = {"l1", "l2", "entropy", "confidence"} if weights else {"l1", "l2"}
        expected = {"abs", "square"} if site.kind == "feed_forward" else heads
        assert statistics.sites[site.name].keys() == expected | {"count"}
        assert all(bool((statistics.mean(site.name, name) > 0).all()) for name in expected)
    assert watched.program.graph_module.state_dict().keys() == program.graph_module.state_dict().keys()


def test_statistics_are_those_of_hooks_on_the_eager_model() -> None:
    module = build()
    program = capture_block(module)
    sites = find_sites(program)
    watched = instrument(program, sites)
    seen: dict[str, Tensor] = {}
    module.attention.to_out.register_forward_pre_hook(lambda _, args: seen.update(heads=args[0]))
    module.feed_forward.down.register_forward_pre_hook(lambda _, args: seen.update(neurons=args[0]))
    inputs = samples(5)
    with torch.no_grad():
        watched(inputs, torch.tensor(250))
        module(inputs, torch.tensor(250))
    statistics = watched.statistics()
    attention, feed_forward = site_of(sites, "attention"), site_of(sites, "feed_forward")
    heads = seen["heads"].unflatten(-1, (attention.units, attention.unit_width))
    expected = {
        (feed_forward.name, "abs"): seen["neurons"].abs().mean((0, 1)),
        (feed_forward.name, "square"): seen["neurons"].square().mean((0, 1)),
        (attention.name, "l2"): heads.norm(dim=-1).mean((0, 1)),
        (attention.name, "l1"): heads.abs().sum(-1).mean((0, 1)),
    }
    for (site, statistic), value in expected.items():
        torch.testing.assert_close(statistics.mean(site, statistic), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(statistics.mean_by_bucket(site, statistic)[2], value, rtol=1e-12, atol=0)
    assert (statistics.samples, statistics.calls, statistics.buckets) == (5, 1, 10)


def test_grad_modes_make_no_difference_and_may_change_between_forwards() -> None:
    program, sites = toy()
    states = []
    for order in (("no_grad", "inference", "grad"), ("inference", "grad", "no_grad")):
        watched = instrument(program, sites)
        for mode in order:
            context = {"no_grad": torch.no_grad(), "inference": torch.inference_mode(), "grad": torch.enable_grad()}
            with context[mode]:
                prediction = watched(samples(2), torch.tensor(100))
            assert prediction.requires_grad == (mode == "grad")
        states.append(watched.statistics())
    assert states[0].identical(states[1])
    assert not any(value.requires_grad for sums in states[0].sites.values() for value in sums.values())


def test_casting_the_program_leaves_the_statistics_in_float64() -> None:
    program = capture_block(build(dtype=torch.float32))
    watched = instrument(program, find_sites(program))
    with torch.no_grad():
        watched(samples(2, dtype=torch.float32), torch.tensor(100))
    before = watched.statistics()
    watched.program.graph_module.to(torch.bfloat16)
    assert watched.statistics().identical(before)


def test_resumed_equals_uninterrupted_to_the_last_bit() -> None:
    program, sites = toy(each=True)
    batches = [(samples(3, seed), torch.tensor([seed * 90, 5, 999])) for seed in range(6)]
    with torch.no_grad():
        whole = instrument(program, sites)
        for batch in batches:
            whole(*batch)
        first, second = instrument(program, sites), instrument(program, sites)
        for batch in batches[:2]:
            first(*batch)
        second(*batches[0])  # what was there before is replaced
        second.load(first.statistics())
        for batch in batches[2:]:
            second(*batch)
    assert second.statistics().identical(whole.statistics())
    second.reset()
    assert second.statistics().samples == 0
    assert not any(value.any() for sums in second.statistics().sites.values() for value in sums.values())


def test_an_interrupt_in_mid_forward_costs_that_forward_only() -> None:
    program, sites = toy()
    watched = instrument(program, sites)
    node = next(node for node in watched.program.graph.nodes if node.target == site_of(sites, "feed_forward").tap)
    reader = watched.program.module(str(node.target))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with torch.no_grad():
        watched(samples(2), torch.tensor(100))
        before = watched.statistics()
        hook = reader.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            watched(samples(2, seed=2), torch.tensor(100))
        hook.remove()
        assert watched.statistics().identical(before)
        watched(samples(2, seed=3), torch.tensor(100))
        after = watched.statistics()
        watched.reset()
        watched(samples(2, seed=3), torch.tensor(100))
    assert after.identical(merge(before, watched.statistics()))


def test_load_refuses_statistics_of_another_model() -> None:
    program, sites = toy()
    other = capture_block(build(seed=1))
    watched, stranger = instrument(program, sites), instrument(other, find_sites(other))
    with pytest.raises(CalibrationError, match="another model"):
        watched.load(stranger.statistics())
    with pytest.raises(CalibrationError, match="same observers"):
        watched.load(instrument(program, sites, buckets=5).statistics())
    with pytest.raises(CalibrationError, match="50 timesteps"):
        watched.load(instrument(program, sites, timesteps=50).statistics())


def test_nan_weights_stop_with_the_sites_name() -> None:
    program, sites = toy()
    broken = copy.deepcopy(program.graph_module)
    with torch.no_grad():
        broken.get_submodule(site_of(sites, "feed_forward").writers[0].path).weight[3] = float("nan")
    watched = instrument(program, sites)
    watched.program.graph_module.load_state_dict(broken.state_dict(), assign=True)
    with torch.no_grad(), pytest.raises(CalibrationError, match=site_of(sites, "feed_forward").name):
        watched(samples(2), torch.tensor(100))
    assert watched.statistics().calls == 0


class CountingObserver(NeuronObserver):
    """A caller's own observer: how often a neuron is positive."""

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("positive",)

    def measure(self, activation: Tensor, *_: Tensor | None) -> list[Tensor]:
        return [(activation > 0).sum(1).double()]


def test_observers_can_be_the_callers_own() -> None:
    program, sites = toy()
    watched = instrument(program, sites, {"feed_forward": CountingObserver})
    with torch.no_grad():
        watched(samples(4), torch.tensor(100))
    statistics = watched.statistics()
    share = statistics.mean(site_of(sites, "feed_forward").name, "positive")
    assert bool(((share > 0) & (share < 1)).all())
    assert statistics.mean(site_of(sites, "attention").name, "l2").shape == (3,)


def test_a_program_without_timestep_has_one_bucket() -> None:
    program, sites = toy()
    watched = instrument(replace(program, timestep=None), sites)
    with torch.no_grad():
        watched(samples(2), torch.tensor(100))
    assert watched.statistics().buckets == 1


def test_senseless_calls_are_refused() -> None:
    program, sites = toy()
    none: tuple[Site, ...] = ()
    with pytest.raises(UsageError, match="no site"):
        instrument(program, none)
    with pytest.raises(UsageError, match="0 buckets"):
        instrument(program, sites, buckets=0)
    with pytest.raises(UsageError, match="no input 'sigma'"):
        instrument(replace(program, timestep="sigma"), sites)
