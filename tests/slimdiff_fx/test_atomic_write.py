import contextlib
import os
import subprocess
import sys
import textwrap

import pytest

from passes.errors import CheckpointError
from slimdiff_fx import atomic_write
from slimdiff_fx.atomic_write import replaced_file, replaced_folder


def test_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with contextlib.suppress(RuntimeError), replaced_file(file) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    with replaced_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    for owner in (dead.pid, os.getppid()):
        (tmp_path / f".a[1].json.partial-{owner}").write_text("half")
    with replaced_file(tmp_path / "a[1].json") as partial:
        partial.write_text("new")
    assert sorted(os.listdir(tmp_path)) == [f".a[1].json.partial-{os.getppid()}", "a[1].json"]


@pytest.mark.parametrize("exchange", [True, False])
def test_folder_is_replaced_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic_write, "_exchange", lambda one, other: False)
    folder = tmp_path / "out"
    with replaced_folder(folder, overwrite=False) as partial:
        (partial / "one").write_text("1")
    with replaced_folder(folder, overwrite=True) as partial:
        (partial / "two").write_text("2")
        assert os.listdir(folder) == ["one"]
    assert os.listdir(folder) == ["two"]
    assert os.listdir(tmp_path) == ["out"]


def test_failure_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "one").write_text("1")

    def fill_the_disk():
        with replaced_folder(folder, overwrite=True) as partial:
            (partial / "two").write_text("2")
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"could not write .*out.*untouched"):
        fill_the_disk()
    assert (folder / "one").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_occupied_folder_is_refused_without_overwrite(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with replaced_folder(folder, overwrite=False) as partial:
        (partial / "one").write_text("1")
    with pytest.raises(CheckpointError, match="--overwrite"), replaced_folder(folder, overwrite=False):
        pass
    with pytest.raises(CheckpointError, match="is a file"), replaced_folder(folder / "one", overwrite=True):
        pass


def test_kill_leaves_the_old_folder_and_the_next_save_cleans_up(tmp_path):
    folder = tmp_path / "out"
    with replaced_folder(folder, overwrite=False) as partial:
        (partial / "one").write_text("1")
    script = f"""
        import os, pathlib
        from slimdiff_fx.atomic_write import replaced_folder
        with replaced_folder(pathlib.Path({str(folder)!r}), overwrite=True) as partial:
            (partial / "two").write_text("2")
            os.kill(os.getpid(), 9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert os.listdir(folder) == ["one"]
    assert len(os.listdir(tmp_path)) == 2
    with replaced_folder(folder, overwrite=True) as partial:
        (partial / "three").write_text("3")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(folder) == ["three"]
