"""What a run prints is read as it prints it, and ratios are of one round."""

from __future__ import annotations

import io

from rich.console import Console

from benchmarks.busy import compared, stages_of
from slimdiff_fx.commands.terminal import TerminalListener


def test_the_stages_that_the_terminal_prints_are_read() -> None:
    out = io.StringIO()
    listener = TerminalListener(Console(file=out, width=100))
    with listener.stage("capture"):
        listener.note("calibrate is what comes next")
    with listener.steps("calibrate", 4, 0, "samples"):
        listener.advance(4)
    assert list(stages_of(out.getvalue())) == ["capture", "calibrate"]


def test_a_stage_with_parts_counts_once() -> None:
    printed = "analyze      3.0 s  \nplan        60.5 s  34 sites, 2 sites/s\nanalyze     70.2 s\nsaved in 3.0 s\n"
    assert stages_of(printed) == {"analyze": 70.2, "plan": 60.5}


def test_ratios_are_of_the_same_round() -> None:
    quiet = [{"capture": 10.0, "load": 0.1}, {"capture": 20.0, "load": 0.1}, {"capture": 30.0, "load": 0.1}]
    busy = [{"capture": 15.0, "load": 0.9}, {"capture": 40.0, "load": 0.9}, {"capture": 36.0, "load": 0.9}]
    rows = compared(quiet, busy)
    assert rows["capture"] == {"quiet_s": 20.0, "busy_s": 36.0, "ratio": 1.5}
    assert "ratio" not in rows["load"], "too short to say anything"
