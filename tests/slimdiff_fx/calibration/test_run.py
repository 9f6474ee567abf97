"""Runs that stop in the middle of a batch: what is written is of whole batches, and what comes of it is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from passes.calibrate import moment_sums
from passes.calibrate.instrument import Instrumented, instrument
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, CheckpointError
from slimdiff_fx.calibration import run as calibration_run
from slimdiff_fx.calibration.checkpoint import load_checkpoint
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.run import calibrate_pipeline
from slimdiff_fx.files.statistics_file import StoredStatistics, load_statistics, save_statistics
from slimdiff_fx.pipelines.trajectory import Sample
from tests.toy_block import samples, toy

SAMPLES = [Sample(number, f"prompt {number}") for number in range(5)]
CALLS = 3  # of each batch
PIPE: Any = None


class Pretended:
    """Stands for the pipeline: each batch makes three calls, of rows and timesteps of its samples' own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.stop_at: int | None = None
        monkeypatch.setattr(calibration_run, "observed_steps", lambda *_: range(CALLS))
        monkeypatch.setattr(calibration_run, "describe_run", self._describe)
        monkeypatch.setattr(calibration_run, "observe_batch", self._observe)
        monkeypatch.setattr(calibration_run, "_CHECKPOINT_EVERY", -1.0)  # after each batch
        monkeypatch.setattr(calibration_run, "_CHECKPOINT_SHARE", 0)

    @staticmethod
    def _describe(pipe: Any, samples: list[Sample], settings: CalibrationSettings) -> dict[str, Any]:
        return {"samples": len(samples), "seed": settings.seed}

    def _observe(self, pipe: Any, observed: Any, batch: list[Sample], *_: Any, advance: Any, **__: Any) -> None:
        for step in range(CALLS):
            rows = torch.cat([samples(1, 10 * sample.number + step) for sample in batch])
            observed(rows, torch.tensor(300 * step))
            self.calls += 1
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            advance(len(batch))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(monkeypatch)


def watch() -> Instrumented:
    return instrument(*toy(), moments=True, weights=[0.5 + bucket for bucket in range(10)])


def run(
    file: Path | None, *, resume: bool = False, watched: Instrumented | None = None, batch: int = 2
) -> StoredStatistics:
    watched = watched or watch()
    settings = CalibrationSettings(batch=batch, checkpoint=file, resume=resume)
    with torch.no_grad():
        return calibrate_pipeline(PIPE, watched, watched, SAMPLES, settings)  # type: ignore[arg-type]


# Rows that wait until they are many, and rows that are folded in at once: in the middle of a batch, too.
@pytest.mark.parametrize("waiting", [2**29, 0, 9000])
@pytest.mark.parametrize("every", [-1.0, 1e9], ids=["written after each batch", "written at the end"])
@pytest.mark.parametrize("stop_at", [4, 5, 8])
def test_a_batch_that_was_interrupted_is_counted_once(
    stop_at: int, every: float, waiting: int, pretended: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moment_sums, "WAITING_BYTES", waiting)
    monkeypatch.setattr(calibration_run, "_CHECKPOINT_EVERY", every)
    whole = run(None)
    assert (whole.done, whole.total, whole.statistics.calls) == (5, 5, 9)
    pretended.calls, pretended.stop_at = 0, stop_at
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state")
    if waiting == 0 and every > 0:  # the sums hold a part of the batch already, so nothing can be written
        assert not (tmp_path / "state").exists()
        return
    stored = load_statistics(tmp_path / "state")
    batches = (stop_at - 1) // CALLS
    assert (stored.done, stored.total, stored.statistics.calls) == (2 * batches, 5, CALLS * batches)
    pretended.calls, pretended.stop_at = 0, None
    resumed = run(tmp_path / "state", resume=True)
    assert pretended.calls == CALLS * (3 - batches)
    assert resumed.done == 5
    assert_equal(resumed.statistics, whole.statistics)
    assert_equal(load_statistics(tmp_path / "state").statistics, whole.statistics)


def assert_equal(one: Statistics, other: Statistics) -> None:
    """Equal but for the rounding of sums that were folded at other times."""
    assert (one.samples, one.calls) == (other.samples, other.calls)
    assert len(one.probes) == len(other.probes)
    for mine, others in ((one.sites, other.sites), (one.moments, other.moments), (one.halves, other.halves)):
        assert mine.keys() == others.keys()
        for site, sums in mine.items():
            for name, values in sums.items():
                torch.testing.assert_close(values, others[site][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stop_at", [5, 8])
def test_halves_are_batches_by_their_number_also_behind_a_resumption(
    stop_at: int, pretended: Pretended, tmp_path: Path
) -> None:
    pretended.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", batch=1)
    pretended.stop_at = None
    resumed = run(tmp_path / "state", resume=True, batch=1).statistics
    odd = watch()
    odd.ledger.odd = True
    with torch.no_grad():
        for number in (1, 3):
            pretended._observe(PIPE, odd, SAMPLES[number : number + 1], advance=lambda rows: None)
    expected = odd.statistics().halves
    assert expected
    for site, sums in expected.items():
        for name, values in sums.items():
            torch.testing.assert_close(resumed.halves[site][name], values, rtol=1e-12, atol=1e-12)


def test_what_waits_of_an_interrupted_batch_is_dropped(pretended: Pretended, tmp_path: Path) -> None:
    watched = watch()
    pretended.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state", watched=watched)
    moments, stored = watched.statistics().moments, load_statistics(tmp_path / "state").statistics.moments
    for site, sums in stored.items():
        assert all(torch.equal(moments[site][name], values) for name, values in sums.items())


def test_a_checkpoint_of_another_run_is_refused_by_the_run(pretended: Pretended, tmp_path: Path) -> None:
    run(tmp_path / "state")
    stored = load_statistics(tmp_path / "state")
    for changed, words in (
        (replace(stored, settings={**stored.settings, "seed": 7}), "other seed"),
        (replace(stored, settings={"samples": 5}), "other seed"),
        (replace(stored, statistics=replace(stored.statistics, fingerprint={"structure": "x"})), "doesn't fit"),
        (replace(stored, statistics=replace(stored.statistics, timesteps=50.0)), "doesn't fit"),
        (replace(stored, statistics=replace(stored.statistics, weights=(1.0,) * 10)), "doesn't fit"),
    ):
        save_statistics(changed, tmp_path / "other")
        watched = watch()
        with pytest.raises(CalibrationError, match=words):
            run(tmp_path / "other", resume=True, watched=watched)
        assert watched.statistics().calls == 0
        with pytest.raises(CalibrationError, match=words):
            load_checkpoint(tmp_path / "other", watched, {"samples": 5, "seed": 0}, None)


def test_a_checkpoint_that_cant_be_written_leaves_the_one_before(
    pretended: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, written = calibration_run.save_statistics, 0

    def full(stored: StoredStatistics, file: Path) -> None:
        nonlocal written
        written += 1
        if written == 1:
            return plain(stored, file)

        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("os.replace", fails)
            return plain(stored, file)

    monkeypatch.setattr(calibration_run, "save_statistics", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run(tmp_path / "state")
    monkeypatch.setattr(calibration_run, "save_statistics", plain)
    assert load_statistics(tmp_path / "state").done == 2
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert_equal(run(tmp_path / "state", resume=True).statistics, run(None).statistics)


def test_nothing_is_left_of_what_was_watched_before(pretended: Pretended) -> None:
    watched = watch()
    with torch.no_grad():
        watched(samples(3, 77), torch.tensor(1))
    assert_equal(run(None, watched=watched).statistics, run(None).statistics)
