"""Statistics don't depend on how samples are split, ordered, sharded or resumed; scores follow their units."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.analyze.criteria import score
from passes.analyze.thresholds import analyze
from passes.calibrate.calibrate import Batch, calibrate
from passes.calibrate.instrument import Instrumented, instrument
from passes.calibrate.statistics import Statistics, merge
from passes.plan.policies import KeepParams, Threshold
from passes.sites.find import find_sites
from tests.toy_block import HEADS, NEURONS, build, capture_block, samples, site_of, toy

SAMPLES, TIMESTEPS = samples(20), torch.randint(1000, (20,), generator=torch.Generator().manual_seed(0))
POLICIES = [Threshold(0.3), Threshold(0.5, "minmax"), KeepParams(0.8)]


def watch() -> Instrumented:
    return instrument(*toy(each=True), attention_weights=True)


def batches(cuts: list[int], order: list[int]) -> list[Batch]:
    """Put the samples in an order and cut them into batches."""
    index = torch.tensor(order)
    parts = zip(SAMPLES[index].tensor_split(cuts), TIMESTEPS[index].tensor_split(cuts), strict=True)
    return [((sample, timestep), {}) for sample, timestep in parts if len(sample)]


def assert_same(one: Statistics, other: Statistics) -> None:
    """Equal up to the rounding of sums in another order, and the same plans."""
    assert one.samples == other.samples
    for site, sums in one.sites.items():
        for name, values in sums.items():
            torch.testing.assert_close(values, other.sites[site][name], rtol=1e-12, atol=1e-14)
    program, sites = toy(each=True)
    for policy in POLICIES:
        assert analyze(program, sites, one, policy).sites == analyze(program, sites, other, policy).sites


WHOLE = calibrate(watch(), batches([], list(range(20))))
CUTS = st.lists(st.integers(1, 19), unique=True, max_size=5).map(sorted)


@settings(max_examples=25, deadline=None)
@given(cuts=st.sampled_from([[], [10], [4, 8, 12, 16]]) | CUTS, order=st.permutations(range(20)))
def test_batches_of_any_size_in_any_order(cuts: list[int], order: list[int]) -> None:
    assert_same(calibrate(watch(), batches(cuts, order)), WHOLE)


@settings(max_examples=15, deadline=None)
@given(cuts=CUTS, shards=st.integers(1, 4), order=st.permutations(range(20)))
def test_shards_merge_to_the_whole(cuts: list[int], shards: int, order: list[int]) -> None:
    parts = batches(cuts, order)
    merged = merge(*(calibrate(watch(), parts[shard::shards]) for shard in range(min(shards, len(parts)))))
    assert_same(merged, WHOLE)
    assert merged.calls == len(parts)


@settings(max_examples=15, deadline=None)
@given(cuts=CUTS, stop=st.integers(0, 5))
def test_resumed_is_uninterrupted_to_the_last_bit(cuts: list[int], stop: int) -> None:
    parts = batches(cuts, list(range(20)))
    first = watch()
    for args, kwargs in parts[:stop]:
        first(*args, **kwargs)
    saved = Statistics.from_tensors(first.statistics().to_tensors())
    second = watch()
    second.load(saved)
    resumed, whole = calibrate(second, parts[saved.calls :]), calibrate(watch(), parts)
    assert resumed.identical(whole)
    program, sites = toy(each=True)
    assert (
        analyze(program, sites, resumed, POLICIES[2]).to_json() == analyze(program, sites, whole, POLICIES[2]).to_json()
    )


def test_size_does_not_grow_with_samples() -> None:
    def size(statistics: Statistics) -> int:
        return sum(value.numel() for sums in statistics.sites.values() for value in sums.values())

    assert size(calibrate(watch(), batches([], [0, 1]))) == size(WHOLE)


@settings(max_examples=4, deadline=None)
@given(neurons=st.permutations(range(NEURONS)), heads=st.permutations(range(HEADS)))
def test_permuted_units_have_permuted_scores_and_the_same_prediction(neurons: list[int], heads: list[int]) -> None:
    module = build()
    with torch.no_grad():
        up, down = module.feed_forward.up, module.feed_forward.down
        rows = torch.tensor(neurons + [NEURONS + neuron for neuron in neurons])
        up.weight.copy_(up.weight[rows])
        up.bias.copy_(up.bias[rows])
        down.weight.copy_(down.weight[:, torch.tensor(neurons)])
        attention = module.attention
        channels = torch.arange(attention.to_q.out_features).view(HEADS, -1)[torch.tensor(heads)].flatten()
        for linear in (attention.to_q, attention.to_k, attention.to_v):
            linear.weight.copy_(linear.weight[channels])
        attention.to_out.weight.copy_(attention.to_out.weight[:, channels])
    program = capture_block(module, each=True)
    sites = find_sites(program)
    permuted, plain = instrument(program, sites, attention_weights=True), watch()
    with torch.no_grad():
        torch.testing.assert_close(permuted(SAMPLES, TIMESTEPS), plain(SAMPLES, TIMESTEPS), rtol=1e-12, atol=1e-12)
    for criterion in (None, ["mean_square", "l1"], "entropy", "confidence"):
        old, new = score(sites, plain.statistics(), criterion), score(sites, permuted.statistics(), criterion)
        for kind, order in (("feed_forward", neurons), ("attention", heads)):
            name = site_of(sites, kind).name
            torch.testing.assert_close(new[name], old[name][torch.tensor(order)], rtol=1e-12, atol=0)
