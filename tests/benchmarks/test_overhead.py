"""The overhead benchmark on a tiny denoiser."""

from __future__ import annotations

from benchmarks.overhead import measure_overhead
from tests.toy_denoisers import dit


def test_overhead_is_the_ratio_of_the_two() -> None:
    result = measure_overhead(dit(0), batch=2, repeats=3, warmup=1, min_seconds=0)
    assert result["sites"] > 0
    assert result["plain"]["runs"] == result["instrumented"]["runs"] == 3
    ratio = result["instrumented"]["median_ms"] / result["plain"]["median_ms"]
    # Ratio of medians and median of ratios differ by noise only.
    assert 0.3 < (1 + result["overhead"]) / ratio < 3
