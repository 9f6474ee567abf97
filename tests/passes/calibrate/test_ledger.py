"""Sums against loops over samples and tokens: unequal counts of queries, keys, samples and weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.calibrate import moment_sums, moments
from passes.calibrate.instrument import Opening
from passes.calibrate.ledger import Ledger
from passes.calibrate.moments import COUNT, FIRST, KEY, KEY_COUNT, KEY_FIRST, QUERY, SECOND, moment_shapes
from passes.calibrate.observers import HeadObserver, NeuronObserver, UnitObserver, Weighing
from passes.calibrate.token_sampling import sampled_positions, sampled_tokens
from passes.errors import CalibrationError
from passes.sites.site import Site
from tests.sites import linear_site

HEADS, WIDTH, NEURONS, BUCKETS = 3, 2, 5, 4
CROSS = linear_site("cross", "attention", HEADS, WIDTH, tuple(name for name in "qkv"), "out")
FEED = linear_site("feed", "feed_forward", NEURONS, 1, (("up", (0, NEURONS)),), "down")
WEIGHTS = (0.25, 3.0, 0.0, 1.5)
QUERIES, KEYS = 130, 5
# Three forwards: one timestep for all, one each, and one each in the same bucket; two of as many samples.
TIMESTEPS: tuple[list[int], ...] = ([20], [990, 260, 130], [300, 499])
SIZES = (3, 3, 2)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Forward:
    """The tensors of one forward, all different, none centred."""

    def __init__(self, number: int, queries: int = QUERIES, keys: int = KEYS) -> None:
        generator = torch.Generator().manual_seed(number)
        batch = SIZES[number]
        given = TIMESTEPS[number]
        self.timestep = torch.tensor(given[0] if len(given) == 1 else given)
        self.timesteps = given * batch if len(given) == 1 else given
        self.query, self.key, self.heads, self.neurons = (
            torch.randn(shape, generator=generator, dtype=torch.float64) + 0.7
            for shape in (
                (batch, HEADS, queries, WIDTH),
                (batch, HEADS, keys, WIDTH),
                (batch, HEADS, queries, WIDTH),
                (batch, queries, NEURONS),
            )
        )

    def weight(self, sample: int) -> float:
        return WEIGHTS[self.timesteps[sample] * BUCKETS // 1000]


def watched(weights: tuple[float, ...] | None = WEIGHTS) -> tuple[Ledger, Opening, list[UnitObserver]]:
    observers: list[UnitObserver] = [HeadObserver(CROSS, Weighing()), NeuronObserver(FEED)]
    layout = {each.site.name: (each.site.units, each.statistics) for each in observers}
    ledger = Ledger(layout, BUCKETS, {site.name: moment_shapes(site) for site in (CROSS, FEED)}, weights)
    for observer in observers:
        observer.ledger = ledger
    return ledger, Opening(ledger, 1000.0), observers


def run(ledger: Ledger, opening: Opening, observers: list[UnitObserver], forwards: list[Forward]) -> None:
    for number, forward in enumerate(forwards):
        ledger.odd = number % 2 == 1
        opening(forward.timestep)
        observers[0](forward.heads, forward.query, forward.key)
        observers[1](forward.neurons)
        ledger.commit()
    ledger.moments.settle()


def looped(site: Site, forwards: list[Forward], weighted: bool = True) -> dict[str, Tensor]:
    """Add up token by token."""
    sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in moment_shapes(site).items()}
    for forward in forwards:
        for sample, step in enumerate(forward.timesteps):
            weight = forward.weight(sample) if weighted else 1.0
            for token in sampled_tokens(forward.query.shape[2], step):
                row = forward.neurons[sample, token] if site is FEED else forward.heads[sample, :, token].flatten()
                sums[COUNT] += weight
                sums[FIRST] += weight * row
                sums[SECOND] += weight * torch.outer(row, row)
                if site is CROSS:
                    for head in range(HEADS):
                        query = forward.query[sample, head, token]
                        sums[QUERY][head] += weight * torch.outer(query, query)
            if site is CROSS:
                for token in sampled_tokens(forward.key.shape[2], step):
                    sums[KEY_COUNT] += weight
                    for head in range(HEADS):
                        key = forward.key[sample, head, token]
                        sums[KEY_FIRST][head] += weight * key
                        sums[KEY][head] += weight * torch.outer(key, key)
    return sums


def assert_sums(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("block", [5, 2048])
@pytest.mark.parametrize("waiting", [0, 3000, 2**29])
def test_moments_are_sums_over_tokens(
    weighted: bool, block: int, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "BLOCK", block)
    monkeypatch.setattr(moment_sums, "WAITING_BYTES", waiting)
    forwards = [Forward(number) for number in range(3)]
    ledger, opening, observers = watched(WEIGHTS if weighted else None)
    run(ledger, opening, observers, forwards)
    for site in (CROSS, FEED):
        assert_sums(ledger.moments.sums[site.name], looped(site, forwards, weighted))
    assert_sums(ledger.moments.halves["cross"], looped(CROSS, [forwards[1]], weighted))
    counted = ledger.moments.sums["cross"]
    assert float(counted[COUNT]) == 2 * float(counted[KEY_COUNT])  # 8 of 130 queries, 4 of 5 keys


@pytest.mark.parametrize(("queries", "keys"), [(1, 40), (3, 200), (200, 1)])
def test_more_keys_than_queries(queries: int, keys: int) -> None:
    forwards = [Forward(number, queries, keys) for number in range(3)]
    ledger, opening, observers = watched()
    run(ledger, opening, observers, forwards)
    assert_sums(ledger.moments.sums["cross"], looped(CROSS, forwards))


def test_units_are_sums_over_all_tokens_in_the_buckets_of_their_timesteps() -> None:
    forwards = [Forward(number) for number in range(3)]
    ledger, opening, observers = watched()
    run(ledger, opening, observers, forwards)
    names = {"feed": ("abs", "square"), "cross": ("l1", "l2", "entropy", "confidence")}
    expected = {
        site: {name: torch.zeros(BUCKETS, units, dtype=torch.float64) for name in names[site]}
        for site, units in (("feed", NEURONS), ("cross", HEADS))
    }
    count = torch.zeros(BUCKETS, dtype=torch.float64)
    for forward in forwards:
        for sample, step in enumerate(forward.timesteps):
            bucket = step * BUCKETS // 1000
            count[bucket] += QUERIES
            for token in range(QUERIES):
                row = forward.neurons[sample, token]
                expected["feed"]["abs"][bucket] += row.abs()
                expected["feed"]["square"][bucket] += row * row
                for head in range(HEADS):
                    output = forward.heads[sample, head, token]
                    expected["cross"]["l1"][bucket, head] += output.abs().sum()
                    expected["cross"]["l2"][bucket, head] += (output * output).sum().sqrt()
            chosen = sampled_positions(QUERIES)
            for head in range(HEADS):
                for token in chosen:
                    scores = forward.key[sample, head] @ forward.query[sample, head, token] / WIDTH**0.5
                    weights = scores.softmax(0)
                    share = QUERIES / len(chosen)
                    expected["cross"]["entropy"][bucket, head] -= share * (weights * weights.log()).sum()
                    expected["cross"]["confidence"][bucket, head] += share * weights.max()
    sites, samples, calls = ledger.read()
    assert (samples, calls) == (8, 3)
    for site, sums in sites.items():
        torch.testing.assert_close(sums["count"], count, rtol=0, atol=0)
        assert_sums({name: sums[name] for name in names[site]}, expected[site])


def test_what_was_read_is_what_is_written_back() -> None:
    ledger, opening, observers = watched()
    run(ledger, opening, observers, [Forward(0), Forward(1)])
    sites, samples, calls = ledger.read()
    other, opening, observers = watched()
    run(other, opening, observers, [Forward(2)])  # is replaced
    other.write(sites, samples, calls)
    other.moments.write(ledger.moments.sums, ledger.moments.halves)
    again, samples_again, calls_again = other.read()
    assert (samples_again, calls_again) == (samples, calls) == (6, 2)
    for site, sums in sites.items():
        assert all(torch.equal(again[site][name], values) for name, values in sums.items())
    for own, given in ((other.moments.sums, ledger.moments.sums), (other.moments.halves, ledger.moments.halves)):
        for site, sums in given.items():
            assert all(torch.equal(own[site][name], values) for name, values in sums.items())
    other.clear()
    assert other.read()[1:] == (0, 0)
    assert not any(
        values.any() for own in (other.moments.sums, other.moments.halves) for values in own["cross"].values()
    )


def test_written_moments_forget_what_waited() -> None:
    ledger, opening, observers = watched()
    run(ledger, opening, observers, [Forward(0)])
    other, opening, observers = watched()
    opening(Forward(1).timestep)
    observers[0](Forward(1).heads, Forward(1).query, Forward(1).key)
    observers[1](Forward(1).neurons)
    other.commit()  # waits
    other.moments.write(ledger.moments.sums, ledger.moments.halves)
    other.moments.settle()
    assert_sums(other.moments.sums["cross"], looped(CROSS, [Forward(0)]))


def test_an_early_fold_is_told_until_everything_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, opening, observers = watched()
    run(ledger, opening, observers, [Forward(0)])
    assert ledger.moments.whole
    monkeypatch.setattr(moment_sums, "WAITING_BYTES", 0)
    opening(Forward(1).timestep)
    observers[0](Forward(1).heads, Forward(1).query, Forward(1).key)
    observers[1](Forward(1).neurons)
    ledger.commit()
    ledger.moments.forget_waiting()  # too late: it is in the sums
    assert not ledger.moments.whole
    assert_sums(ledger.moments.sums["cross"], looped(CROSS, [Forward(0), Forward(1)]))
    ledger.moments.settle()
    assert ledger.moments.whole


def test_a_failed_forward_leaves_the_moments_too() -> None:
    ledger, opening, observers = watched()
    run(ledger, opening, observers, [Forward(0)])
    broken = Forward(1)
    broken.heads[2, 1, 100, 0] = torch.inf
    with pytest.raises(CalibrationError, match="'cross'"):
        run(ledger, opening, observers, [broken])
    ledger.moments.settle()
    assert ledger.read()[1:] == (3, 1)
    assert_sums(ledger.moments.sums["cross"], looped(CROSS, [Forward(0)]))
    run(ledger, opening, observers, [Forward(2)])  # and the next one finds nothing of it
    assert_sums(ledger.moments.sums["cross"], looped(CROSS, [Forward(0), Forward(2)]))
