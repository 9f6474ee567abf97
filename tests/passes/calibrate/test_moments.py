"""Second moments: what is summed, over which tokens, and that it doesn't depend on how it got there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.calibrate import moment_sums
from passes.calibrate import moments as moments_module
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import Instrumented, instrument
from passes.calibrate.moments import (
    COUNT,
    FIRST,
    KEY,
    KEY_COUNT,
    KEY_FIRST,
    QUERY,
    SECOND,
    covariance,
    halved_sites,
    moment_bytes,
    sums_of,
)
from passes.calibrate.statistics import Statistics, merge
from passes.calibrate.token_sampling import MOST_TOKENS, sampled_tokens
from passes.errors import CalibrationError, UsageError
from passes.sites.find import locate
from passes.sites.site_nodes import SiteNodes
from tests.covariances import feed_forward
from tests.toy_block import HEADS, NEURONS, TOKENS, WIDTH, samples, site_of, toy

SAMPLES, TIMESTEPS = samples(12), torch.randint(1000, (12,), generator=torch.Generator().manual_seed(0))


def watch(**options: object) -> Instrumented:
    return instrument(*toy(each=True), moments=True, **options)  # type: ignore[arg-type]


def run(sizes: list[int], **options: object) -> Statistics:
    cuts = torch.tensor(sizes).cumsum(0)[:-1].tolist()
    parts = zip(SAMPLES.tensor_split(cuts), TIMESTEPS.tensor_split(cuts), strict=True)
    return calibrate(watch(**options), [(part, {}) for part in parts])


def seen(nodes: dict[str, SiteNodes], name: str, node: str, sample: int) -> Tensor:
    """Run the dense toy up to a node, on one sample."""
    program = toy(each=True)[0]
    values: dict[str, Tensor] = {}

    class Reader(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                values[n.name] = result
            return result

    Reader(program.graph_module).run(SAMPLES[sample : sample + 1], TIMESTEPS[sample : sample + 1])
    return values[getattr(nodes[name], node).name]


def test_sums_are_those_of_the_sampled_tokens() -> None:
    program, sites = toy(each=True)
    nodes = {site.name: locate(program, site) for site in sites}
    statistics = run([12])
    for kind in ("feed_forward", "attention"):
        site = site_of(sites, kind)
        sums = statistics.moments[site.name]
        rows: list[Tensor] = []
        for sample in range(12):
            value = seen(nodes, site.name, "activation", sample)[0]
            tokens = value.transpose(0, 1).reshape(TOKENS, -1) if kind == "attention" else value
            rows += [tokens[token] for token in sampled_tokens(TOKENS, float(TIMESTEPS[sample]))]
        taken = torch.stack(rows)
        assert float(sums[COUNT]) == len(taken)
        torch.testing.assert_close(sums[FIRST], taken.sum(0))
        torch.testing.assert_close(sums[SECOND], taken.T @ taken)


def test_queries_and_keys_are_summed_by_head() -> None:
    program, sites = toy(each=True)
    site = site_of(sites, "attention")
    nodes = {site.name: locate(program, site)}
    sums = run([12]).moments[site.name]
    expected = {name: torch.zeros_like(sums[name]) for name in (QUERY, KEY, KEY_FIRST)}
    for sample in range(12):
        tokens = sampled_tokens(TOKENS, float(TIMESTEPS[sample]))
        query, key = (seen(nodes, site.name, node, sample)[0][:, tokens] for node in ("query", "key"))
        expected[QUERY] += query.transpose(1, 2) @ query
        expected[KEY] += key.transpose(1, 2) @ key
        expected[KEY_FIRST] += key.sum(1)
    for name, values in expected.items():
        torch.testing.assert_close(sums[name], values)
    assert float(sums[KEY_COUNT]) == float(sums[COUNT])


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [3, 1, 8]])
def test_batches_of_any_size_give_the_same_sums(sizes: list[int]) -> None:
    one, other = run(sizes), run([12])
    for site, sums in one.moments.items():
        for name, values in sums.items():
            torch.testing.assert_close(values, other.moments[site][name], rtol=1e-12, atol=1e-12)


def test_shards_merge_to_the_whole() -> None:
    whole = run([6, 6])
    parts = []
    for half in (slice(0, 6), slice(6, 12)):
        parts.append(calibrate(watch(), [((SAMPLES[half], TIMESTEPS[half]), {})]))
    merged = merge(*parts)
    for site, sums in merged.moments.items():
        for name, values in sums.items():
            torch.testing.assert_close(values, whole.moments[site][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [0, 3000, 2**29])
def test_how_long_tokens_wait_changes_rounding_alone(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run([12])
    monkeypatch.setattr(moment_sums, "WAITING_BYTES", limit)
    for site, sums in run([2, 2, 2, 2, 2, 2]).moments.items():
        for name, values in sums.items():
            torch.testing.assert_close(values, whole.moments[site][name], rtol=1e-12, atol=1e-12)


def test_tokens_that_wait_can_be_forgotten() -> None:
    watched = watch()
    watched(SAMPLES[:6], TIMESTEPS[:6])
    first = watched.statistics()
    watched(SAMPLES[6:], TIMESTEPS[6:])
    watched.ledger.moments.forget_waiting()
    assert watched.ledger.moments.whole
    for site, sums in watched.statistics().moments.items():
        for name, values in sums.items():
            assert torch.equal(values, first.moments[site][name])


def test_halves_hold_every_second_batch() -> None:
    statistics = run([2, 4, 2, 4])
    attention = site_of(toy(each=True)[1], "attention")
    assert set(statistics.halves) == {attention.name}
    tokens = len(sampled_tokens(TOKENS, 0.0))
    assert float(statistics.halves[attention.name][COUNT]) == 4 * tokens
    assert float(statistics.moments[attention.name][COUNT]) == 12 * tokens


def test_weights_count_tokens_by_their_timestep() -> None:
    weights = [0.0] * 5 + [2.0] * 5
    late = int((TIMESTEPS >= 500).sum())
    sums = run([12], weights=weights).moments[site_of(toy(each=True)[1], "feed_forward").name]
    assert float(sums[COUNT]) == 2 * late * len(sampled_tokens(TOKENS, 0.0))
    kept = TIMESTEPS >= 500
    alone = calibrate(watch(), [((SAMPLES[kept], TIMESTEPS[kept]), {})])
    twice = 2 * alone.moments[site_of(toy(each=True)[1], "feed_forward").name][SECOND]
    torch.testing.assert_close(sums[SECOND], twice)


def test_shared_sums_are_the_ones_that_grow() -> None:
    watched = watch()
    watched(SAMPLES[:6], TIMESTEPS[:6])
    shared, own = watched.statistics(copy=False), watched.statistics()
    site = toy(each=True)[1][0].name
    before = own.moments[site][SECOND].clone()
    watched(SAMPLES[6:], TIMESTEPS[6:])
    watched.ledger.moments.settle()
    assert torch.equal(own.moments[site][SECOND], before)
    assert not torch.equal(shared.moments[site][SECOND], before)


def test_storage_holds_the_sums() -> None:
    made: list[tuple[int, ...]] = []

    def storage(shape: tuple[int, ...]) -> Tensor:
        made.append(shape)
        return torch.zeros(shape, dtype=torch.float64)

    statistics = run([12], storage=storage)
    assert (NEURONS, NEURONS) in made
    assert (WIDTH, WIDTH) in made
    for site, sums in run([12]).moments.items():
        assert all(torch.equal(values, statistics.moments[site][name]) for name, values in sums.items())


def test_memory_is_counted() -> None:
    sites = toy(each=True)[1]
    held = sum(8 * values.numel() for sums in watch().ledger.moments.sums.values() for values in sums.values())
    assert moment_bytes(sites) == held
    assert held > 8 * (NEURONS**2 + WIDTH**2 + 2 * HEADS * (WIDTH // HEADS) ** 2)


@pytest.mark.parametrize("tokens", [1, 3, 4, 16, 77, 4096])
def test_sampled_tokens_are_few_distinct_and_move_with_the_timestep(tokens: int) -> None:
    chosen = [tuple(sampled_tokens(tokens, float(step))) for step in range(0, 1000, 20)]
    for each in chosen:
        assert list(each) == sorted(set(each))
        assert 0 <= each[0] <= each[-1] < tokens
        assert min(tokens, 4) <= len(each) <= MOST_TOKENS
    if tokens > 16:
        assert len(set(chosen)) > 10


def test_covariance_is_that_of_the_tokens() -> None:
    rows = torch.randn(40, 5, dtype=torch.float64) + 3
    sums = {COUNT: torch.tensor(40.0), FIRST: rows.sum(0), SECOND: rows.T @ rows}
    found = covariance(feed_forward(5), sums)
    torch.testing.assert_close(found.matrix, rows.T.cov(correction=0))
    torch.testing.assert_close(found.mean, rows.mean(0))
    plain = covariance(feed_forward(5), sums, centred=False)
    torch.testing.assert_close(plain.matrix, rows.T @ rows / 40)
    assert not plain.mean.any()


def test_nothing_seen_is_refused() -> None:
    sums = {COUNT: torch.tensor(0.0), FIRST: torch.zeros(5), SECOND: torch.zeros(5, 5)}
    with pytest.raises(CalibrationError, match="saw no token"):
        covariance(feed_forward(5), sums)
    with pytest.raises(UsageError, match="has no second moments"):
        sums_of(feed_forward(5), {})


def test_the_smallest_attentions_are_halved_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(width: int) -> dict[str, tuple[int, ...]]:
        return {COUNT: (), SECOND: (width, width), QUERY: (width,)}

    # 8 bytes for each of 1 + w² + w numbers: 888, 344 and 168
    shapes = {"large": attention(10), "middle": attention(6), "small": attention(4), "neurons": {SECOND: (1, 1)}}
    for limit, chosen in ((167, []), (168, ["small"]), (511, ["small"]), (512, ["small", "middle"])):
        monkeypatch.setattr(moments_module, "HALVES_LIMIT", limit)
        assert halved_sites(shapes) == chosen
    monkeypatch.setattr(moments_module, "HALVES_LIMIT", 2**20)
    assert halved_sites(shapes) == ["small", "middle", "large"]
