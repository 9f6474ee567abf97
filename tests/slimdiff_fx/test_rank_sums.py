"""What several processes add up to, in real processes: what one would have seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from passes.statistics import Statistics
from slimdiff_fx.shares import Share
from slimdiff_fx.statistics_file import load_statistics
from tests.summing_rank import BATCH, SAMPLES, watch
from tests.torchrun import torchrun


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
