"""Ranks: which device is whose, and what is said when one is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from passes.errors import CalibrationError, RankError, SilentRankError, UsageError
from slimdiff_fx.calibration import ranks as ranks_module
from slimdiff_fx.calibration.ranks import (
    Ranks,
    Terminated,
    _as_told,
    joined_ranks,
    lost_ranks,
    own_device,
    started_ranks,
    wait_for_all,
)
from slimdiff_fx.cli import app


@pytest.fixture
def gpus(monkeypatch):
    """Let torch report two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.fixture
def pair():
    """Give the places of two ranks of one agent that share a store; both are this process."""
    store = dist.HashStore()
    for rank in range(2):
        store.set(f"process/{rank}", f"0:{os.getpid()}")
    return [Ranks(rank, 2, "cpu", store) for rank in range(2)]


@pytest.fixture
def dead():
    """Give the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_each_rank_takes_the_gpu_of_its_number(gpus):
    assert [own_device("cuda", rank) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert gpus == [0, 1]
    assert own_device("cpu", 5) == "cpu"


@pytest.mark.parametrize(
    ("device", "rank", "said"),
    [("cuda", 2, "there are 2 GPUs"), ("cuda:1", 0, "a GPU of its own"), ("mps", 0, "cpu or cuda")],
)
def test_devices_that_ranks_cannot_use_are_refused(gpus, device, rank, said):
    with pytest.raises(UsageError, match=said):
        own_device(device, rank)


def test_cuda_and_nccl_are_needed_for_ranks_on_gpus(gpus, monkeypatch):
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(UsageError, match="no NCCL"):
        own_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU"):
        own_device("cuda", 0)


def test_a_process_alone_is_the_only_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_ranks("cuda:1") as ranks:
        assert (ranks.rank, ranks.world, ranks.device, ranks.several) == (0, 1, "cuda:1", False)
    ranks.beat()
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some schedulers set it, without saying which one this is
    assert started_ranks() == 1


def test_commands_that_share_nothing_refuse_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(app, ["inspect", "emoji"])
    assert result.exit_code == 2
    assert "start `inspect` without torchrun" in result.stderr


def test_waiting_ends_when_all_have_come(pair):
    pair[1].store.set("arrived/1", "yes")
    wait_for_all(pair[0])


def test_a_rank_that_does_not_move_is_given_up_by_name(pair):
    with pytest.raises(RankError, match=r"rank 1 has not called.*`resume`"):
        wait_for_all(pair[0], timedelta(seconds=0.5))


def test_a_dead_rank_is_named_at_once(pair, dead, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")
    pair[0].store.set("process/1", f"0:{dead}")
    assert lost_ranks(pair[0]) == [1]
    with pytest.raises(RankError, match=r"rank 1 was lost.*`resume`"):
        wait_for_all(pair[0])


def test_waiting_ends_when_another_rank_has_failed(pair):
    _as_told(pair[1], CalibrationError("no activation is finite"))
    with pytest.raises(SilentRankError):
        wait_for_all(pair[0])


def test_ranks_of_other_machines_and_those_that_said_why_are_not_called_lost(pair, dead, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")
    pair[0].store.set("process/1", f"1:{dead}")
    assert lost_ranks(pair[0]) == []
    pair[0].store.set("process/1", f"0:{dead}")
    pair[0].store.set("left/1", "yes")
    assert lost_ranks(pair[0]) == []
    monkeypatch.delenv("GROUP_RANK")  # not started by torchrun: ids may be of another machine
    pair[0].store.delete_key("left/1")
    assert lost_ranks(pair[0]) == []


def test_one_rank_tells_and_the_others_are_silent(pair):
    told = _as_told(pair[1], CalibrationError("no activation is finite"))
    assert isinstance(told, CalibrationError)
    assert str(told) == "rank 1: no activation is finite"
    assert isinstance(_as_told(pair[0], Terminated()), SilentRankError)


def test_a_rank_that_is_told_to_stop_says_what_it_knows(pair, dead, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "0")
    assert "told to stop" in str(_as_told(pair[0], Terminated()))
    pair[0].store.delete_key("told")
    pair[0].store.set("process/1", f"0:{dead}")
    assert str(_as_told(pair[0], Terminated())).startswith("rank 1 was lost; ")


class Clock:
    """Time that passes only while someone sleeps; `each` is called at every sleep with the minutes so far."""

    def __init__(self, minutes, each):
        self.step, self.each, self.minutes = minutes, each, 0.0

    def monotonic(self):
        return self.minutes * 60

    def sleep(self, seconds):
        self.minutes += self.step
        assert self.minutes < 10_000, "waits for ever"
        self.each(self.minutes)


def test_a_slow_rank_that_beats_is_waited_for(pair, monkeypatch):
    def goes_on(minutes):
        pair[1].beat()
        if minutes >= 500:
            pair[1].store.set("arrived/1", "yes")

    clock = Clock(20, goes_on)
    monkeypatch.setattr(ranks_module, "time", clock)
    wait_for_all(pair[0])
    assert clock.minutes == 500  # many times the patience


@pytest.mark.parametrize("last", [0, 100, 300])
def test_patience_counts_from_the_last_beat(pair, monkeypatch, last):
    clock = Clock(5, lambda minutes: pair[1].beat() if minutes <= last else None)
    monkeypatch.setattr(ranks_module, "time", clock)
    with pytest.raises(RankError, match="rank 1 has not called the denoiser for 30 minutes"):
        wait_for_all(pair[0])
    assert last + 30 < clock.minutes <= last + 40


def test_the_rank_that_hangs_is_named_and_not_the_slow_one(monkeypatch):
    store = dist.HashStore()
    ranks = [Ranks(rank, 3, "cpu", store) for rank in range(3)]
    monkeypatch.setattr(ranks_module, "time", Clock(7, lambda minutes: ranks[1].beat()))
    with pytest.raises(RankError, match="rank 2 has not called"):
        wait_for_all(ranks[0])
