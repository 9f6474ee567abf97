"""Sums in files: zero at first, kept, nameless, and refused where there is no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from passes.errors import CheckpointError
from slimdiff_fx.calibration.disk_sums import sums_in


def test_sums_are_zero_and_hold_what_is_added(tmp_path: Path) -> None:
    make = sums_in(tmp_path / "new" / "folder")
    one, other, scalar = make((3, 4)), make((3, 4)), make(())
    assert one.dtype == torch.float64
    assert not one.any()
    one.add_(2)
    scalar.add_(1)
    assert one.sum() == 24
    assert not other.any()
    assert scalar.shape == ()
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_a_folder_that_cant_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="name another"):
        sums_in(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is only reserved where the system can")
def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    make = sums_in(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match="no room for 800 more bytes"):
        make((10, 10))
