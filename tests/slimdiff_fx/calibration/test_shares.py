"""Which batches are whose: all of them somebody's, whole, and counted as one process would."""

from __future__ import annotations

import pytest

from slimdiff_fx.calibration.shares import Share


@pytest.mark.parametrize(("samples", "batch", "world"), [(11, 2, 3), (12, 2, 3), (1, 4, 2), (5, 5, 1), (100, 1, 7)])
def test_shares_are_the_batches_of_one_process(samples, batch, world):
    shares = [Share(samples, batch, rank, world) for rank in range(world)]
    numbers = sorted(number for share in shares for number in share.batches)
    assert numbers == list(Share(samples, batch).batches)
    assert [row for number in numbers for row in range(samples)[shares[0].rows(number)]] == list(range(samples))
    assert sum(share.total for share in shares) == samples


def test_a_billion_billion_samples_are_counted_at_once():
    shares = [Share(10**18 - 1, 16, rank, 3) for rank in range(3)]
    assert sum(share.total for share in shares) == 10**18 - 1
    assert shares[0].left(32)[0] == 6


def test_what_is_left_follows_what_is_done():
    share = Share(11, 2, 1, 2)  # batches 1, 3 and 5; the last of one sample
    assert (list(share.batches), share.total) == ([1, 3, 5], 5)
    assert [list(share.left(done)) for done in (0, 2, 4, 5)] == [[1, 3, 5], [3, 5], [5], []]
    assert share.calls(0, 3) == []
    assert share.calls(4, 3) == [3, 4, 5, 9, 10, 11]
    assert Share(11, 2).calls(11, 3) == list(range(18))
