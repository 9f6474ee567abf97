"""Threads of a calibration: the fewest that are about the fastest, and on resuming those of the beginning."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from passes.calibrate.instrument import instrument
from slimdiff_fx.calibration import threads
from slimdiff_fx.calibration.checkpoint import recorded_threads
from slimdiff_fx.calibration.ranks import ALONE
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.threads import choose_threads, restored_threads
from slimdiff_fx.files.statistics_file import StoredStatistics, save_statistics
from slimdiff_fx.pipelines.trajectory import Sample
from tests.toy_block import samples, toy

SAMPLES = [Sample(number, "a prompt") for number in range(8)]


class Timed:
    """A denoiser whose calls take seconds of a clock set by hand, by how many threads torch has."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.now, self.calls = 0.0, 0
        self.seconds = seconds

    def __call__(self) -> None:
        self.calls += 1
        self.now += self.seconds[torch.get_num_threads()]

    def clock(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with restored_threads():
        torch.set_num_threads(4)
        yield


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.01, 2: 0.02, 4: 0.04}, 1),
        ({1: 0.03, 2: 0.02, 4: 0.04}, 2),
        ({1: 0.03, 2: 0.02, 4: 0.01}, 4),
        ({1: 0.0102, 2: 0.01, 4: 0.0099}, 1),  # hardly faster is not worth a core
        ({1: 0.03, 2: 0.0102, 4: 0.01}, 2),
    ],
)
def test_the_fewest_threads_that_are_about_the_fastest(seconds: dict[int, float], chosen: int) -> None:
    timed = Timed(seconds)
    assert threads._fastest(timed, 4, timed.clock) == chosen
    assert torch.get_num_threads() == 4


def test_one_slow_round_decides_nothing() -> None:
    timed = Timed({1: 0.01, 2: 0.02, 4: 0.04})
    slow_once = iter([0.0] * 2 + [5.0])
    plain = timed.__call__

    def call() -> None:
        timed.now += next(slow_once, 0.0)
        plain()

    # the first call with one thread is interrupted for longer than all may take: what is known then decides
    assert threads._fastest(call, 4, timed.clock) == 2
    timed = Timed({1: 0.01, 2: 0.02, 4: 0.04})
    slow_once = iter([0.0] * 2 + [1.0])  # leaves time for more rounds
    plain = timed.__call__
    assert threads._fastest(call, 4, timed.clock) == 1


def test_a_long_call_keeps_all_threads_and_is_made_twice() -> None:
    timed = Timed({1: 2.0, 2: 2.0, 4: 2.0})
    assert threads._fastest(timed, 4, timed.clock) == 4
    assert timed.calls == 2


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])]
)
def test_what_is_tried(most: int, counts: list[int]) -> None:
    assert list(dict.fromkeys(threads._counts(most))) == counts


class Denoiser(nn.Module):
    device = torch.device("cpu")

    def forward(self, sample: Any, timestep: Any) -> Any:
        return sample


@pytest.fixture
def first_call(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand for the pipeline's call: note what is asked of it, and call the denoiser once."""
    asked: dict[str, Any] = {}

    def call(pipe: Any, batch: Any, sampling: Any, seed: int, forward: Any) -> None:
        asked.update(rows=len(batch), seed=seed)
        forward(torch.zeros(1), 0)

    monkeypatch.setattr(threads, "at_first_call", call)
    monkeypatch.setattr(threads, "_fastest", lambda call, most: [call(), asked.update(most=most), 3][-1])
    return asked


def _pipe() -> Any:
    return SimpleNamespace(unet=Denoiser())


def _checkpoint(folder: Path, said: Any) -> Path:
    watched = instrument(*toy())
    watched(samples(2, 0), torch.tensor(3))
    file = folder / "checkpoint.safetensors"
    save_statistics(StoredStatistics(watched.statistics(), {"threads": said}, 2, 4), file)
    return file


def test_a_whole_batch_is_timed(first_call: dict[str, Any]) -> None:
    assert choose_threads(_pipe(), SAMPLES, CalibrationSettings(batch=5, seed=7)) == 3
    assert torch.get_num_threads() == 3
    assert first_call == {"rows": 5, "seed": 7, "most": 4}


def test_what_the_user_or_a_launcher_set_stays(first_call: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_threads(_pipe(), SAMPLES, CalibrationSettings()) == 4
    monkeypatch.delenv("OMP_NUM_THREADS")
    ranks = CalibrationSettings(ranks=replace(ALONE, world=2))
    assert choose_threads(_pipe(), SAMPLES, ranks) == 4
    assert first_call == {}


def test_a_resumed_run_keeps_its_threads(first_call: dict[str, Any], tmp_path: Path) -> None:
    file = _checkpoint(tmp_path, 1)
    assert choose_threads(_pipe(), SAMPLES, CalibrationSettings(checkpoint=file, resume=True)) == 1
    assert torch.get_num_threads() == 1
    assert first_call == {}
    torch.set_num_threads(4)
    assert choose_threads(_pipe(), SAMPLES, CalibrationSettings(checkpoint=file)) == 3, "begun anew"


@pytest.mark.parametrize("said", [0, -1, 10**6, True, "2", None, 1.0])
def test_a_checkpoint_that_says_nothing_of_use(said: Any, tmp_path: Path) -> None:
    assert recorded_threads(_checkpoint(tmp_path, 1)) == 1
    file = _checkpoint(tmp_path, said)
    assert recorded_threads(file) is None
    assert recorded_threads(None) is None
    assert recorded_threads(tmp_path / "none") is None


PRINTED = """
import os, sys
import slimdiff_fx.cli as cli
assert "torch" not in sys.modules, "OpenMP reads its environment when torch is imported"
cli.app = lambda: print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"))
cli.main()
"""


def test_the_command_line_waits_passively_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits() -> str:
        run = subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert waits() == "PASSIVE 1000"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert waits() == "ACTIVE None"
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert waits() == "PASSIVE 0"
