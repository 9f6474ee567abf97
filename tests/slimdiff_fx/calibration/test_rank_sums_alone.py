"""What ranks exchange, with a real process group of one: everything comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from passes.calibrate.instrument import instrument
from passes.errors import CalibrationError, RankError
from slimdiff_fx.calibration.rank_sums import from_rank_0, gather, require_agreement, sum_over_ranks
from slimdiff_fx.calibration.ranks import Ranks
from tests.toy_block import samples, toy


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Ranks(0, 1, "cpu", store)
    dist.destroy_process_group()


@pytest.mark.parametrize("data", [b"", b"one", bytes(range(256)) * 3])
def test_bytes_come_back(ranks: Ranks, data: bytes) -> None:
    assert from_rank_0(data) == data
    if data:
        assert gather(data) == [data]


def test_several_ranks_of_unequal_length_are_cut_to_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {0: b"short", 1: b"", 2: b"a longer one"}

    def all_gather(received: list[torch.Tensor], own: torch.Tensor) -> None:
        for rank, place in enumerate(received):
            if place.dtype == torch.int64:
                place.fill_(len(sent[rank]))
            else:
                assert len(own) == len(place) == 12
                place[: len(sent[rank])] = torch.tensor(list(sent[rank]), dtype=torch.uint8)

    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    assert gather(b"short") == [b"short", b"", b"a longer one"]


def test_one_rank_agrees_with_itself_and_its_sums_stay(ranks: Ranks) -> None:
    require_agreement({"steps": 3, "names": ["a"]}, ranks)
    program, sites = toy()
    watched = instrument(program, sites, moments=True)
    with torch.no_grad():
        for number in range(3):
            watched.ledger.odd = number % 2 == 0
            watched(samples(2, number), torch.tensor(300 * number))
    before = watched.statistics()
    sum_over_ranks(watched, ranks)
    after = watched.statistics()
    assert after.identical(before)
    assert len(after.probes) == 3


@pytest.mark.parametrize("broken", ["all_gather", "broadcast", "all_reduce"])
def test_an_exchange_that_a_lost_rank_broke_is_told_in_our_words(
    ranks: Ranks, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Connection closed by peer\nand more")

    monkeypatch.setattr(dist, broken, fail)
    program, sites = toy()
    watched = instrument(program, sites)
    with torch.no_grad():
        watched(samples(2), torch.tensor(5))
    asked = {
        "all_gather": lambda: gather(b"data"),
        "broadcast": lambda: from_rank_0(b"data"),
        "all_reduce": lambda: sum_over_ranks(watched, ranks),
    }
    with pytest.raises(RankError, match=r"\(Connection closed by peer\)"):
        asked[broken]()


def test_the_first_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slimdiff_fx.calibration.rank_sums.gather", lambda data: [data, data, b'{"steps": 4}'])
    with pytest.raises(CalibrationError, match="rank 2 runs with other steps than rank 0"):
        require_agreement({"steps": 3}, Ranks(0, 3))
    require_agreement({}, Ranks(0, 3))
