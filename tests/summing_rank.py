"""One of several processes that watch the smallest denoiser: `torchrun tests/summing_rank.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from passes.calibrate.instrument import Instrumented, instrument
from passes.errors import CalibrationError
from slimdiff_fx.calibration.rank_sums import require_agreement, sum_over_ranks
from slimdiff_fx.calibration.ranks import joined_ranks
from slimdiff_fx.calibration.shares import Share
from slimdiff_fx.files.statistics_file import StoredStatistics, save_statistics
from tests.toy_block import samples, toy

SAMPLES, BATCH, CALLS = 131, 3, 2


def threads_left() -> list[str]:
    """Name the process group's threads that are still there (on Linux)."""
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def watch(share: Share) -> Instrumented:
    """Run a share's batches, each at two timesteps."""
    program, sites = toy(dtype=torch.float32)
    watched = instrument(program, sites, moments=True)
    for number in share.batches:
        watched.ledger.odd = number % 2 == 1
        watched.probes.call = number * CALLS
        inputs = samples(len(range(SAMPLES)[share.rows(number)]), seed=number, dtype=torch.float32)
        with torch.no_grad():
            watched(inputs, torch.tensor(100 + number))
            watched(inputs, torch.tensor(900 - number))
        watched.statistics(copy=False)  # as calibration does after each batch
    return watched


if __name__ == "__main__":
    with joined_ranks() as ranks:
        require_agreement({"samples": SAMPLES}, ranks)
        watched = watch(Share(SAMPLES, BATCH, ranks.rank, ranks.world))
        sum_over_ranks(watched, ranks)
        file = Path(sys.argv[1]) / f"rank{ranks.rank}.safetensors"
        save_statistics(StoredStatistics(watched.statistics(), {}, SAMPLES, SAMPLES), file)
        try:
            require_agreement({"samples": SAMPLES, "number": ranks.rank}, ranks)
        except CalibrationError as error:
            file.with_suffix(".txt").write_text(str(error))
    # one that outlives the group may abort the process at its end
    assert not threads_left()
