"""What killed runs left is removed, and nothing else: whose a partial folder is, also where numbers come round."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimdiff_fx.files import partial_files
from slimdiff_fx.files.atomic_write import replaced_file, replaced_files
from slimdiff_fx.files.partial_files import drop_partial, is_partial, make_partial, place_of_partial, remove_leftovers


@pytest.fixture
def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def leftover(place: Path, owner: str) -> Path:
    folder = place.with_name(f".{place.name}.partial-{owner}")
    folder.mkdir()
    (folder / place.name).write_text("half")
    return folder


def own_name(monkeypatch: pytest.MonkeyPatch, place: Path, pid: int, *, began: int | None = None) -> Path:
    """Give the partial folder that another process would make."""
    with monkeypatch.context() as patch:
        patch.setattr(partial_files.os, "getpid", lambda: pid)
        if began is not None:
            patch.setattr(partial_files, "_began", lambda pid: began)
        partial = make_partial(place)
    partial_files._in_use.discard(partial)
    return partial


@pytest.mark.parametrize("name", ["a[1].json", "x" * 255, "ü" * 120, "two\nlines", ".hidden"])
@pytest.mark.parametrize("has_proc", [True, False])
def test_the_dead_are_cleared_away_and_the_living_left(
    name: str, has_proc: bool, dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_proc:
        monkeypatch.setattr(partial_files, "_began", lambda pid: None)
    place = tmp_path / name
    gone = own_name(monkeypatch, place, dead)
    (gone / "half").write_text("half")
    living = own_name(monkeypatch, place, os.getppid())
    other = own_name(monkeypatch, tmp_path / "other", dead)
    assert len(os.fsencode(gone.name)) <= 255
    with replaced_file(place) as partial:
        assert partial.name == name
        partial.write_text("new")
    assert place.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == sorted([place, living, other])


def test_a_number_that_came_round_is_not_its_first_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a"
    living = own_name(monkeypatch, place, os.getppid(), began=partial_files._began(os.getppid()))
    gone = own_name(monkeypatch, place, os.getppid(), began=1)
    remove_leftovers(place)
    assert not gone.exists()
    assert living.exists()


def test_another_hosts_are_left_for_nobody_here_knows(
    dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(partial_files.socket, "gethostname", lambda: "elsewhere")
        there = own_name(monkeypatch, place, dead)
    remove_leftovers(place)
    assert there.exists()


def test_another_users_process_lives(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a"
    theirs = own_name(monkeypatch, place, dead)

    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (dead, 0)
        raise PermissionError

    monkeypatch.setattr(partial_files.os, "kill", kill)
    remove_leftovers(place)
    assert theirs.exists()


def test_names_of_earlier_versions(dead: int, tmp_path: Path) -> None:
    place = tmp_path / "a.onnx"
    gone, living = leftover(place, str(dead)), leftover(place, str(os.getppid()))
    file = place.with_name(f".a.onnx.partial-{10**30}")
    file.write_text("half")
    strange = leftover(place, "k3j_x9ab")
    remove_leftovers(place)
    assert not gone.exists()
    assert not file.exists()
    assert living.exists()
    assert strange.exists()


def test_what_this_process_writes_at_the_same_time_is_left(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "a") as first:
        first.write_text("first")
        with replaced_file(tmp_path / "a") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "a").read_text() == "first"
    forgotten = make_partial(tmp_path / "a")
    partial_files._in_use.discard(forgotten)  # as if its removal had failed
    remove_leftovers(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_an_export_that_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "a.onnx"
    place.write_text("old")
    script = f"""
import os, pathlib
from slimdiff_fx.files.atomic_write import replaced_files
with replaced_files(pathlib.Path({str(place)!r}), pathlib.Path({str(place) + ".data"!r})) as (graph, data):
    graph.write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert place.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    with replaced_files(place, place.with_name("a.onnx.data")) as (graph, _):
        graph.write_text("new")
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_the_only_copy_gets_its_place_back(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "out"
    new = own_name(monkeypatch, place, dead)
    old = new.with_name(f"{new.name}.old")
    old.mkdir()
    (old / "model").write_text("the only copy")
    remove_leftovers(place)
    assert (place / "model").read_text() == "the only copy"
    assert os.listdir(tmp_path) == ["out"]
    old.mkdir()  # and where the place is taken it is a leftover as others are
    remove_leftovers(place)
    assert os.listdir(tmp_path) == ["out"]


def test_dropping_never_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **settings: object) -> None:
        raise OSError(30, "Read-only file system")

    partial = make_partial(tmp_path / "a")
    monkeypatch.setattr(partial_files.shutil, "rmtree", fails)
    drop_partial(partial)
    remove_leftovers(tmp_path / "a")


def test_partial_names_are_known(tmp_path: Path) -> None:
    partial = make_partial(tmp_path / "unet.onnx")
    assert is_partial(partial.name)
    assert place_of_partial(partial) == tmp_path / "unet.onnx"
    drop_partial(partial)
    for name in ("unet.onnx", ".partial", "a.partial-7", ".a.partial-notes", "partial-1"):
        assert not is_partial(name)
