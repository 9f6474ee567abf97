"""What is asked of observers, and what they hand out, on the smallest denoiser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.calibrate.instrument import PREFIX, instrument
from passes.calibrate.moments import COUNT, moment_shapes
from passes.errors import UsageError
from tests.toy_block import samples, site_of, toy

PROGRAM, SITES = toy()
ATTENTION, FEED_FORWARD = site_of(SITES, "attention"), site_of(SITES, "feed_forward")


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0], [1.0, 1.0, 1.0], [2.0, -1.0], [0.0, float("nan")]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="give 2 that are not negative and not all zero"):
        instrument(PROGRAM, SITES, buckets=2, moments=True, weights=weights)


@pytest.mark.parametrize(("buckets", "timesteps"), [(0, 1000.0), (-1, 1000.0), (3, 0.0), (3, -1.0), (3, float("nan"))])
def test_a_range_that_is_none_is_refused(buckets: int, timesteps: float) -> None:
    with pytest.raises(UsageError, match="both must be positive"):
        instrument(PROGRAM, SITES, buckets=buckets, timesteps=timesteps)


@torch.no_grad()
def test_one_bucket_takes_all_timesteps() -> None:
    watched = instrument(PROGRAM, SITES, buckets=1)
    for timestep in (3, 999):
        watched(samples(2), torch.tensor(timestep))
    assert watched.statistics().sites[ATTENTION.name]["count"].tolist() == [2 * 2 * 16]


@torch.no_grad()
def test_buckets_cover_the_range_and_weights_count() -> None:
    watched = instrument(PROGRAM, SITES, buckets=2, timesteps=100.0, moments=True, weights=[1.0, 3.0])
    assert watched.timesteps == 100.0
    for timestep, count in ((10, 2), (80, 3), (99, 1)):
        watched(samples(count), torch.tensor(timestep))
    found = watched.statistics()
    tokens = found.sites[FEED_FORWARD.name]["count"]
    assert tokens.tolist() == [2 * 16, 4 * 16]
    assert found.weights == (1.0, 3.0)
    # Four of sixteen tokens are sampled.
    assert float(found.moments[FEED_FORWARD.name][COUNT]) == 4 * (2 * 1 + 4 * 3)
    alike = instrument(PROGRAM, SITES, buckets=2, timesteps=100.0, moments=True)
    for timestep, count in ((10, 2), (80, 3), (99, 1)):
        alike(samples(count), torch.tensor(timestep))
    assert float(alike.statistics().moments[FEED_FORWARD.name][COUNT]) == 4 * 6


@torch.no_grad()
def test_without_a_timestep_weights_are_one() -> None:
    watched = instrument(replace(PROGRAM, timestep=None), SITES, buckets=5, moments=True, weights=[2.0])
    watched(samples(2), torch.tensor(5))
    assert watched.statistics().buckets == 1


@torch.no_grad()
@pytest.mark.parametrize("copy", [True, False])
def test_moments_are_copied_or_shared(copy: bool) -> None:
    watched = instrument(PROGRAM, SITES, moments=True)
    watched(samples(2), torch.tensor(5))
    found = watched.statistics(copy=copy)
    before = {site: {name: values.clone() for name, values in sums.items()} for site, sums in found.moments.items()}
    assert before.keys() == {site.name for site in SITES}
    assert {name: tuple(values.shape) for name, values in before[ATTENTION.name].items()} == moment_shapes(ATTENTION)
    watched(samples(3, seed=2), torch.tensor(5))
    watched.statistics(copy=copy)
    for site, sums in found.moments.items():
        for name, values in sums.items():
            assert torch.equal(values, before[site][name]) is copy


@torch.no_grad()
def test_what_was_measured_goes_on_in_another_run_with_all_its_parts() -> None:
    first, second, whole = (instrument(PROGRAM, SITES, moments=True) for _ in range(3))
    batches = [(samples(2, seed), torch.tensor(90 * seed)) for seed in range(4)]
    for number, batch in enumerate(batches):
        (first if number < 2 else second)(*batch)
        whole(*batch)
        if number == 1:
            # Asked at the same moment: what waits is added up then.
            whole.statistics()
            second.load(first.statistics())
    assert second.statistics().identical(whole.statistics())
    assert len(second.statistics().probes) == 4
    second.reset()
    empty = second.statistics()
    assert (empty.samples, empty.calls, empty.probes) == (0, 0, ())
    assert not any(bool(values.any()) for sums in empty.moments.values() for values in sums.values())


def test_nothing_is_taken_that_was_not_asked_for() -> None:
    light = instrument(PROGRAM, SITES)
    with torch.no_grad():
        light(samples(2), torch.tensor(5))
    found = light.statistics()
    assert (found.moments, found.halves, found.probes, found.weights) == ({}, {}, (), ())
    assert found.sites[ATTENTION.name].keys() == {"l1", "l2", "count"}
    weighed = instrument(PROGRAM, SITES, attention_weights=True)
    assert weighed.statistics().sites[ATTENTION.name].keys() == {"l1", "l2", "entropy", "confidence", "count"}
    assert weighed.statistics().sites[FEED_FORWARD.name].keys() == {"abs", "square", "count"}


def test_observers_stand_right_behind_what_they_watch_and_read_only() -> None:
    watched = instrument(PROGRAM, SITES, attention_weights=True)
    nodes = list(watched.program.graph.nodes)
    observers = [node for node in nodes if node.op == "call_module" and str(node.target).startswith(f"{PREFIX}.site_")]
    assert len(observers) == len(SITES)
    for node in observers:
        assert not node.users
        assert nodes[nodes.index(node) - 1] is node.args[0]
    heads = next(node for node in observers if len(node.args) > 1)
    activation, query, key, mask = heads.args
    assert activation.args[:2] == (query, key)
    assert mask is None
    opening = next(node for node in nodes if str(node.target) == f"{PREFIX}.opening")
    placeholders = [node for node in nodes if node.op == "placeholder"]
    assert nodes[nodes.index(opening) - 1] is placeholders[-1]
    assert [node.name for node in opening.args] == ["timestep"]
    closing = nodes[-2]
    assert str(closing.target) == f"{PREFIX}.closing"
    assert closing.args == (nodes[-1].all_input_nodes[0],)
    assert watched.sites == SITES
    assert watched.dense is PROGRAM
