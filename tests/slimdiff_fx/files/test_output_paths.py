"""Paths that users give: `~`, links, and what is the same place under another name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from passes.errors import OutputError, UsageError
from slimdiff_fx.calibration.disk_sums import sums_in
from slimdiff_fx.files.output_paths import check_file_place, check_folder_place, expand, follow, refuse_overlap
from slimdiff_fx.latency.cache import cache_folder


def test_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expand("~/a") == tmp_path / "a"
    assert expand("~") == tmp_path
    assert expand("~no-such-user/a") == Path("~no-such-user/a")
    assert expand("a/~") == Path("a/~")
    assert cache_folder("~/cache") == tmp_path / "cache"
    assert torch.equal(sums_in(Path("~/sums"))((2,)), torch.zeros(2, dtype=torch.float64))
    assert (tmp_path / "sums").is_dir()


def test_places_are_absolute_and_links_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert follow("link/new/../file") == tmp_path / "real" / "file"
    assert follow("link") == tmp_path / "real"
    assert check_file_place("link/file") == tmp_path / "real" / "file"
    assert check_folder_place("link") == tmp_path / "real"
    assert check_folder_place("a/b/c") == tmp_path / "a" / "b" / "c"
    assert os.listdir(tmp_path / "real") == []


def test_no_path_at_all() -> None:
    with pytest.raises(OutputError, match="is no path"):
        follow("a\0b")


@pytest.mark.parametrize(("length", "ending"), [(255, ""), (250, ".data")])
def test_the_longest_names(length: int, ending: str, tmp_path: Path) -> None:
    endings = (ending,) if ending else ()
    for check in (check_file_place, check_folder_place):
        check(tmp_path / ("x" * length), endings=endings)
        with pytest.raises(OutputError, match="too long"):
            check(tmp_path / ("x" * (length + 1)), endings=endings)


def test_a_file_that_is_write_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "file")
    with pytest.raises(OutputError, match="write-protected"):
        check_file_place(tmp_path / "file")


def test_overlaps(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "in" / "file").touch()
    os.link(tmp_path / "in" / "file", tmp_path / "second name")
    for out, given, allowed in [
        ("in", "in", False),
        ("in/new", "in", True),
        ("in/new/er", "in/below/..", True),
        ("in", "in/below", False),
        ("in", "in/missing/folder", False),
        ("second name", "in/file", False),
    ]:
        with pytest.raises(OutputError, match="--images"):
            refuse_overlap(tmp_path / out, {"--images": tmp_path / given})
        if allowed:
            refuse_overlap(tmp_path / out, {"--images": tmp_path / given}, inside=True)
        else:
            with pytest.raises(OutputError, match="--images"):
                refuse_overlap(tmp_path / out, {"--images": tmp_path / given}, inside=True)
    for out, given in [("out", "in"), ("in2", "in"), ("in/below", "in/file"), ("out", None)]:
        refuse_overlap(tmp_path / out, {"--images": given and tmp_path / given})


def test_a_bad_output_is_for_usage_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check_file_place(tmp_path)
