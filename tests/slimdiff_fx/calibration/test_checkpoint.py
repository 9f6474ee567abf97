"""Checkpoints of one and of several processes: whose they are, and who may go on from them."""

from __future__ import annotations

import os

import pytest

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.calibration.checkpoint import (
    Resumable,
    find_checkpoint,
    forget_checkpoint,
    own_checkpoint,
    refuse_foreign_checkpoint,
    resumable,
)
from slimdiff_fx.calibration.ranks import ALONE, Ranks


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "slim [1].calibration.safetensors"


def test_a_checkpoint_names_its_rank_and_their_number(checkpoint):
    assert own_checkpoint(checkpoint, ALONE) == checkpoint
    assert own_checkpoint(checkpoint, Ranks(1, 3)).name == "slim [1].calibration.rank1of3.safetensors"


def test_nothing_to_resume_from_is_no_error(checkpoint):
    assert not find_checkpoint(checkpoint)


def test_checkpoints_of_another_number_of_ranks_are_refused(checkpoint):
    own_checkpoint(checkpoint, Ranks(2, 3)).touch()
    with pytest.raises(CheckpointError, match=r"were written by 3 ranks, and this run has 1.*without `resume`"):
        find_checkpoint(checkpoint)
    checkpoint.touch()
    assert find_checkpoint(checkpoint)


@pytest.mark.parametrize(("others", "found"), [((b"missing", b"missing"), False), ((b"missing", b"found"), True)])
def test_all_ranks_are_told_the_same(checkpoint, monkeypatch, others, found):
    monkeypatch.setattr("slimdiff_fx.calibration.checkpoint.gather", lambda own: [own, *others])
    assert find_checkpoint(checkpoint, Ranks(0, 3)) == found


def test_forgetting_takes_all_of_one_output_and_no_other(checkpoint):
    mine = [checkpoint, own_checkpoint(checkpoint, Ranks(0, 2)), own_checkpoint(checkpoint, Ranks(4, 5))]
    others = [
        checkpoint.with_name("slim 1.calibration.rank0of2.safetensors"),
        checkpoint.with_name("slim [1].calibration.rank0of2.safetensors.txt"),
        checkpoint.with_name("slim [1].calibration.rankXofY.safetensors"),
    ]
    for file in (*mine, *others):
        file.touch()
    forget_checkpoint(checkpoint)
    assert sorted(checkpoint.parent.iterdir()) == sorted(others)
    forget_checkpoint(None)


def test_what_is_no_checkpoint_is_neither_deleted_nor_written_over(checkpoint):
    for file in (checkpoint, own_checkpoint(checkpoint, Ranks(0, 2))):
        file.write_text("mine")
    forget_checkpoint(checkpoint)
    for ranks in (ALONE, Ranks(0, 2)):
        with pytest.raises(OutputError, match="is not statistics"):
            refuse_foreign_checkpoint(checkpoint, ranks)
    refuse_foreign_checkpoint(checkpoint, Ranks(1, 2))
    assert {file.read_text() for file in checkpoint.parent.iterdir()} == {"mine"}


def test_forgetting_takes_what_killed_ranks_left_half_written(checkpoint):
    dead, alive = 10**30, os.getppid()
    ranked = own_checkpoint(checkpoint, Ranks(1, 3)).name
    mine = [f".{checkpoint.name}.partial-{dead}", f".{ranked}.partial-{dead}"]
    others = [
        f".{ranked}.partial-{alive}",
        f".slim [1].calibration.notes.safetensors.partial-{dead}",
        ".slim [1].calibration.safetensors.partial-notes",
    ]
    for name in (*mine, *others):
        (checkpoint.parent / name).mkdir()
    forget_checkpoint(checkpoint)
    assert sorted(each.name for each in checkpoint.parent.iterdir()) == sorted(others)


@pytest.mark.parametrize(
    ("left", "writes", "resume", "holds"),
    [
        (False, False, False, False),
        (False, True, False, True),
        (True, False, False, False),  # of an earlier run, perhaps with other settings
        (True, True, False, True),
        (True, False, True, True),
        (False, False, True, False),
    ],
)
def test_an_interruption_says_whether_it_can_be_resumed(checkpoint, left, writes, resume, holds):
    if left:
        checkpoint.write_text("earlier")

    def run():
        with resumable(checkpoint, resume=resume):
            if writes:
                partial = checkpoint.with_name("partial")
                partial.write_text("this run's")
                partial.replace(checkpoint)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        run()
    assert (raised.type is Resumable) == holds
    assert ("`resume`" in str(raised.value)) == holds
