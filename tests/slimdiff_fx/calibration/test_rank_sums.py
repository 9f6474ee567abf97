"""What several processes add up to, in real processes: what one would have seen."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError
from slimdiff_fx.calibration import rank_sums
from slimdiff_fx.calibration.rank_sums import require_agreement, sum_over_ranks
from slimdiff_fx.calibration.ranks import Ranks
from slimdiff_fx.calibration.shares import Share
from slimdiff_fx.files.statistics_file import load_statistics
from tests.summing_rank import BATCH, SAMPLES, watch
from tests.torchrun import torchrun
from tests.toy_block import samples


@pytest.fixture(scope="module")
def alone() -> Iterator[Statistics]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield watch(Share(SAMPLES, BATCH)).statistics()
    torch.set_num_threads(threads)


def assert_equal_to_rounding(one: Statistics, other: Statistics) -> None:
    """Compare: what is added in float64 to 1e-12, probes to the bit.

    Second moments are float32 products over blocks of tokens. No block reaches over a batch, and batches are whole on
    each rank: the same products are added, in another order, in float64. What is left is measured against a sum's
    largest entry, as entries off the diagonal are small by cancellation.
    """
    assert (one.samples, one.calls) == (other.samples, other.calls)
    for site, sums in one.sites.items():
        for name, values in sums.items():
            torch.testing.assert_close(other.sites[site][name], values, rtol=1e-12, atol=0)
    for mine, others in ((one.moments, other.moments), (one.halves, other.halves)):
        assert mine.keys() == others.keys()
        for site, sums in mine.items():
            for name, values in sums.items():
                error = (others[site][name] - values).abs().max()
                assert error <= 1e-12 * values.abs().max(), (site, name)
    assert len(one.probes) == len(other.probes)
    for leaves, others in zip(one.probes, other.probes, strict=True):
        assert all(torch.equal(leaf, other) for leaf, other in zip(leaves, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_rank_ends_with_what_one_process_sees(alone, tmp_path, ranks):
    done = torchrun(ranks, "tests/summing_rank.py", tmp_path)
    assert done.returncode == 0, done.stderr
    found = [load_statistics(tmp_path / f"rank{rank}.safetensors").statistics for rank in range(ranks)]
    assert all(each.identical(found[0]) for each in found)
    assert 16 < len(alone.probes) <= 32 < alone.calls
    assert alone.halves
    assert all(float(sums["count"]) > 0 for sums in alone.halves.values())
    assert_equal_to_rounding(alone, found[0])
    refused = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(ranks)]
    assert all(text.startswith("rank 1 runs with other number than rank 0") for text in refused)


class Other:
    """Stands for another rank: what it sent first is added to what this one sends, in the same order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[torch.Tensor] = []
        self.probes = b""
        self.listening = True
        monkeypatch.setattr(rank_sums, "wait_for_all", lambda ranks: None)
        monkeypatch.setattr(rank_sums, "gather", self._gather)
        monkeypatch.setattr(rank_sums.dist, "all_reduce", self._all_reduce)

    def _all_reduce(self, values: torch.Tensor) -> None:
        if self.listening:
            self.sent.append(values.clone())
        else:
            sent = self.sent.pop(0)
            assert sent.shape == values.shape
            values += sent

    def _gather(self, data: bytes) -> list[bytes]:
        if self.listening:
            self.probes = data
            return [data]
        return [self.probes, data]


def test_unequal_shares_add_up_to_the_whole(alone: Statistics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 44 batches one rank has 30, the other 14; some sums are of one of them alone."""

    class Uneven(Share):
        @property
        def batches(self) -> range:
            return range(30) if self.rank == 0 else range(30, 44)

    other = Other(monkeypatch)
    ranks = [Ranks(rank, 2) for rank in range(2)]
    watched = [watch(Uneven(SAMPLES, BATCH, rank, 2)) for rank in range(2)]
    counted = [each.statistics() for each in watched]
    assert [each.calls for each in counted] == [60, 28]
    sum_over_ranks(watched[1], ranks[1])  # only sends
    other.listening = False
    sum_over_ranks(watched[0], ranks[0])
    assert not other.sent
    found = watched[0].statistics()
    assert_equal_to_rounding(alone, found)
    for site, sums in found.sites.items():
        for name, values in sums.items():
            expected = counted[0].sites[site][name] + counted[1].sites[site][name]
            torch.testing.assert_close(values, expected, rtol=1e-14, atol=0)
    assert [int(leaves[1]) for leaves in found.probes] == [int(leaves[1]) for leaves in alone.probes]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_differs_is_named_with_the_rank_that_has_it(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"seed": 3, "samples": 5, "steps": 7}
    name = list(facts)[place]
    gathered = [facts, facts, {**facts, name: 0}]
    monkeypatch.setattr(rank_sums, "gather", lambda data: [json.dumps(each).encode() for each in gathered])
    with pytest.raises(CalibrationError, match=f"rank 2 runs with other {name} than rank 0"):
        require_agreement(facts, Ranks(0, 3))
    gathered[2] = {**facts, "more": 1}  # what rank 0 doesn't say can't decide its sums
    require_agreement(facts, Ranks(0, 3))
    gathered[1] = {key: value for key, value in facts.items() if key != name}
    with pytest.raises(CalibrationError, match=f"rank 1 runs with other {name}"):
        require_agreement(facts, Ranks(0, 3))


def test_rows_that_wait_are_sent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other(monkeypatch)
    watched = watch(Share(0, BATCH))
    with torch.no_grad():
        watched(samples(2, dtype=torch.float32), torch.tensor(100))
    sum_over_ranks(watched, Ranks(0, 2))
    sums = [values for each in watched.ledger.moments.sums.values() for values in each.values()]
    assert all(bool(values.any()) for values in sums)
    assert all(torch.equal(sent, values) for sent, values in zip(other.sent, sums, strict=False))
