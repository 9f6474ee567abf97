"""What is said of a measured latency agrees with its ratio."""

from __future__ import annotations

from slimdiff_fx.latency.outcome import Latency


def test_the_sentence_has_times_that_agree_with_the_ratio() -> None:
    # A busy machine: the slim median is above the dense one, and the turns say that slim is faster.
    latency = Latency("ort", 2, "wall", 0.8, 0.75, 20.0, 22.0, 1.0, 1.0, 9)
    assert latency.sentence() == (
        "latency on ort, 2 threads: expected 0.800 of the dense one, measured 0.750 (20.0 to 15.0 ms)"
    )
