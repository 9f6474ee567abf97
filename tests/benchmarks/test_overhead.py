"""The overhead benchmark on a tiny denoiser."""

from __future__ import annotations

from benchmarks.overhead import WATCHED, measure_overhead
from slimdiff_fx.denoisers.families import capture_denoiser
from tests.toy_denoisers import dit


def test_overhead_is_the_ratio_of_the_two() -> None:
    result = measure_overhead(capture_denoiser(dit(0), batch=2), repeats=3, warmup=1, min_seconds=0)
    assert result["sites"] > 0
    assert result["batch"] == 2
    assert result["watched"].keys() == WATCHED.keys()
    for name, each in result["watched"].items():
        assert each["runs"] == result["plain"]["runs"] == 3
        # only second moments wait to be added up, and that counts
        assert (each["of_it_sums"] > 0) == (name == "moments")
        ratio = each["median_ms"] / result["plain"]["median_ms"]
        # Ratio of medians and median of ratios differ by noise only.
        assert 0.3 < (1 + each["overhead"] - each["of_it_sums"]) / ratio < 3
