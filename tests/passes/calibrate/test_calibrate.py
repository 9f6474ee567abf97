"""Calibration: batches in, statistics out."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.errors import CalibrationError
from tests.toy_block import samples, toy

BATCHES = [((samples(2, seed), torch.tensor(seed * 100)), {}) for seed in range(4)]


def test_every_batch_counts_once() -> None:
    watched = instrument(*toy())
    seen: list[int] = []
    statistics = calibrate(watched, iter(BATCHES), after_batch=seen.append)
    assert (statistics.samples, statistics.calls, seen) == (8, 4, [1, 2, 3, 4])
    assert statistics.identical(watched.statistics())


def test_keyword_inputs_are_passed_on() -> None:
    batches = [((args[0],), {"timestep": args[1]}) for args, _ in BATCHES]
    assert calibrate(instrument(*toy()), batches).identical(calibrate(instrument(*toy()), BATCHES))


def test_no_batches_are_an_error() -> None:
    with pytest.raises(CalibrationError, match="no batches"):
        calibrate(instrument(*toy()), [])


def test_a_finished_run_resumes_with_no_batches_left() -> None:
    done = calibrate(instrument(*toy()), BATCHES)
    watched = instrument(*toy())
    watched.load(done)
    assert calibrate(watched, BATCHES[done.calls :]).identical(done)


def test_an_interrupted_run_resumes_to_the_same_bits() -> None:
    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    watched = instrument(*toy())
    with pytest.raises(KeyboardInterrupt):
        calibrate(watched, BATCHES, after_batch=stop)
    saved = watched.statistics()
    again = instrument(*toy())
    again.load(saved)
    assert calibrate(again, BATCHES[saved.calls :]).identical(calibrate(instrument(*toy()), BATCHES))


def test_nothing_needs_gradients() -> None:
    program, sites = toy()
    calibrate(instrument(program, sites), BATCHES)
    assert all(parameter.grad is None for parameter in program.graph_module.parameters())
