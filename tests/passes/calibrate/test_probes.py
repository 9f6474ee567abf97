"""The inputs that calibration keeps."""

from __future__ import annotations

import torch

from passes.calibrate.probes import PROBES, ROWS, Probes


def offer(probes: Probes, calls: range, batch: int = 6) -> None:
    for call in calls:
        sample = torch.full((batch, 2), float(call)) + torch.arange(batch).unsqueeze(1) / 100
        probes.offer((sample, torch.tensor(call)), {}, sample)


def test_few_calls_are_kept_from_all_over_the_set() -> None:
    probes = Probes(PROBES)
    offer(probes, range(1000))
    kept = [int(leaves[1]) for leaves in probes.read()]
    assert PROBES // 2 < len(kept) <= PROBES
    assert kept == list(range(0, 1000, kept[1]))


def test_rows_are_few_and_differ_from_call_to_call() -> None:
    probes = Probes(PROBES)
    offer(probes, range(8))
    rows = [tuple(((leaves[0][:, 0] - float(leaves[1])) * 100).round().int().tolist()) for leaves in probes.read()]
    assert {len(each) for each in rows} == {ROWS}
    assert set().union(*rows) == set(range(6))


def test_small_batches_are_kept_whole_and_nothing_is_shared() -> None:
    probes = Probes(PROBES)
    sample = torch.ones(2, 3)
    probes.offer((sample, torch.tensor(5)), {"scale": 2.0}, sample)
    sample.zero_()
    leaves = probes.read()[0]
    assert leaves[0].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert leaves[2].item() == 2.0


def test_going_on_from_a_copy_keeps_the_same_calls() -> None:
    for stop in (1, 31, 32, 33, 100, 257):
        whole, first, second = Probes(PROBES), Probes(PROBES), Probes(PROBES)
        offer(whole, range(300))
        offer(first, range(stop))
        second.write(first.read(), range(stop))
        offer(second, range(stop, 300))
        assert [int(leaves[1]) for leaves in second.read()] == [int(leaves[1]) for leaves in whole.read()]


def test_processes_that_share_the_calls_keep_together_what_one_keeps() -> None:
    each, total = 3, 300  # calls of a batch, and of all
    whole = Probes(PROBES)
    offer(whole, range(total))
    for world in (2, 3, 7):
        together: dict[int, tuple[torch.Tensor, ...]] = {}
        for rank in range(world):
            probes, seen = Probes(PROBES), []
            for batch in range(rank, total // each, world):
                calls = range(batch * each, (batch + 1) * each)
                resumed = Probes(PROBES)
                resumed.write(probes.read(), seen)
                resumed.call = calls[0]
                offer(resumed, calls)
                seen += calls
                probes = resumed
                assert len(probes.read()) <= PROBES
            together |= probes.kept(total)
        kept = [together[call] for call in sorted(together)]
        assert len(kept) == len(whole.read())
        for mine, others in zip(kept, whole.read(), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(mine, others, strict=True))


def test_none_are_kept_where_none_are_wanted() -> None:
    probes = Probes(0)
    offer(probes, range(3))
    assert probes.read() == ()


def test_what_has_no_rows_of_the_batch_is_kept_whole_and_apart() -> None:
    probes = Probes(PROBES)
    sample, sizes, words = torch.arange(12.0).reshape(6, 2), torch.tensor([7.0, 8.0]), torch.arange(6.0)
    probes.offer((sample, sizes), {"words": words}, sample)
    kept = [leaf.clone() for leaf in probes.read()[0]]
    assert [leaf.tolist() for leaf in kept] == [[[0, 1], [2, 3], [6, 7], [8, 9]], [7, 8], [0, 1, 3, 4]]
    for tensor in (sample, sizes, words):
        tensor.zero_()
    assert all(torch.equal(one, other) for one, other in zip(kept, probes.read()[0], strict=True))


def test_the_next_call_takes_the_next_rows() -> None:
    probes = Probes(PROBES)
    offer(probes, range(3))
    first = [(leaves[0][:, 0] - float(leaves[1])).mul(100).round().int().tolist() for leaves in probes.read()]
    assert first == [[0, 1, 3, 4], [1, 2, 4, 5], [2, 3, 5, 0]]
