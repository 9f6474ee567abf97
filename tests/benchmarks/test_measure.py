"""Timing is fair, memory is seen, results are whole."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import torch

from benchmarks.measure import Timing, Watch, interleave, machine, paired_ratio, write_result


def test_rounds_alternate_and_warmup_is_not_counted() -> None:
    calls: list[str] = []
    timings = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, warmup=1)
    assert calls == ["a", "b"] + ["a", "b", "b", "a"] * 2
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 4, "b": 4}


def test_rounds_go_on_for_the_time_asked() -> None:
    ticks = itertools.count()  # each look at the clock is a second later
    timings = interleave({"a": lambda: None}, repeats=1, warmup=0, min_seconds=5, clock=lambda: next(ticks))
    assert timings["a"].seconds == (1,) * 5


def test_median_spread_and_ratio() -> None:
    one, other = Timing((1.0, 2.0, 3.0, 4.0, 100.0)), Timing((2.0, 4.0, 6.0, 8.0, 400.0))
    assert one.median == 3.0
    assert one.spread == 1.0  # quartiles 2 and 4
    assert paired_ratio(other, one) == 2.0


def test_watch_sees_memory_that_is_gone_again() -> None:
    with Watch() as watch:
        block = torch.ones(50_000_000 // 4)
        time.sleep(0.1)
        del block
    assert watch.rise >= 40_000_000
    assert watch.seconds >= 0.1


def test_result_is_written_whole(tmp_path: Path) -> None:
    path = write_result("x", {"machine": machine(), "value": 1}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    data = json.loads(path.read_text())
    assert data["value"] == 1
    assert data["machine"]["versions"]["torch"] == torch.__version__
