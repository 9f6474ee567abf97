import contextlib
import os
import subprocess
import sys
import textwrap

import pytest

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.files import atomic_write, partial_files
from slimdiff_fx.files.atomic_write import replaced_file, replaced_files, replaced_folder
from tests.file_tree import tree


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
    with pytest.raises(CheckpointError, match="`overwrite=True`"), replaced_folder(folder, overwrite=False):
        pass
    with pytest.raises(CheckpointError, match="is a file"), replaced_folder(folder / "one", overwrite=True):
        pass


def test_kill_leaves_the_old_folder_and_the_next_save_cleans_up(tmp_path):
    folder = tmp_path / "out"
    with replaced_folder(folder, overwrite=False) as partial:
        (partial / "one").write_text("1")
    script = f"""
        import os, pathlib
        from slimdiff_fx.files.atomic_write import replaced_folder
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


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("links", [True, False])
def test_several_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch, failing, links):
    """Whichever rename fails, the first, second or third: what was there is there, and what wasn't isn't."""
    names = ("first", "second", "third")
    (tmp_path / "first").write_text("old first")
    (tmp_path / "third").write_text("old third")
    before, renames, replace = tree(tmp_path), [], os.replace

    def fails_once(source, target):
        renames.append(str(target))
        if len(renames) == failing + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(atomic_write.os, "link", no_links)

    def write():
        with replaced_files(*(tmp_path / name for name in names)) as written:
            for file in written:
                file.write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_write.os, "replace", fails_once)
        with pytest.raises(CheckpointError, match="No space left on device"):
            write()
    assert tree(tmp_path) == before
    write()
    assert {name: (tmp_path / name).read_text() for name in names} == dict.fromkeys(names, "new")
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_the_first_file_comes_last_and_what_is_not_written_goes_after_it(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("old")
    (tmp_path / "a.onnx.data").write_text("of the old one")
    replace = os.replace

    def watched(source, target):
        assert (tmp_path / "a.onnx.data").exists()
        replace(source, target)

    monkeypatch.setattr(atomic_write.os, "replace", watched)
    with replaced_files(tmp_path / "a.onnx", tmp_path / "a.onnx.data") as (graph, _):
        graph.write_text("new, with no data of its own")
    assert os.listdir(tmp_path) == ["a.onnx"]


@pytest.mark.parametrize("kind", ["file", "files", "folder"])
def test_a_failing_removal_never_hides_what_went_wrong_first(tmp_path, monkeypatch, kind):
    def fails(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(partial_files.shutil, "rmtree", fails)
    monkeypatch.setattr(os, "unlink", fails)
    writer = {
        "file": lambda: replaced_file(tmp_path / "a"),
        "files": lambda: replaced_files(tmp_path / "a", tmp_path / "b"),
        "folder": lambda: replaced_folder(tmp_path / "a", overwrite=True),
    }[kind]

    def fill_the_disk():
        with writer():
            raise OSError(28, "No space left on device")

    def stop():
        with writer():
            raise KeyError("the first message")

    with pytest.raises(CheckpointError, match="No space left on device"):
        fill_the_disk()
    with pytest.raises(KeyError, match="the first message"):
        stop()


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_are_what_the_umask_gives(tmp_path, umask):
    """Also of what a library made for the owner alone, or with more than is allowed."""
    with replaced_files(tmp_path / "a", tmp_path / "b") as written:
        for file, mode in zip(written, (0o600, 0o666), strict=True):
            file.write_text("x")
            file.chmod(mode)
    with replaced_folder(tmp_path / "out", overwrite=False) as partial:
        (partial / "in").mkdir(mode=0o700)
        (partial / "in" / "c").write_text("x")
        (partial / "in" / "c").chmod(0o600)
        (partial / "d").write_text("x")
        (partial / "d").chmod(0o777)
    modes = {
        name: (tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "out", "out/in", "out/in/c", "out/d")
    }
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes == {"a": file, "b": file, "out": folder, "out/in": folder, "out/in/c": file, "out/d": file}


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    with replaced_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"
    (tmp_path / "there" / "folder").mkdir()
    (tmp_path / "door").symlink_to("there/folder")
    with replaced_folder(tmp_path / "door", overwrite=False) as partial:
        (partial / "a").write_text("a")
    assert (tmp_path / "door").is_symlink()
    assert os.listdir(tmp_path / "there" / "folder") == ["a"]
    assert sorted(os.listdir(tmp_path / "there")) == ["file", "folder"]


def test_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a pipe"), replaced_file(tmp_path / "pipe"):
        pass
    with pytest.raises(OutputError, match="a pipe"), replaced_folder(tmp_path / "pipe", overwrite=True):
        pass
    assert os.listdir(tmp_path) == ["pipe"]


def test_everything_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    flushed, replace = [], os.replace

    def flush(file):
        flushed.append(file.name)

    def renamed(source, target):
        assert source.name in flushed
        replace(source, target)

    monkeypatch.setattr(atomic_write, "flush_to_disk", flush)
    monkeypatch.setattr(atomic_write.os, "replace", renamed)
    with replaced_files(tmp_path / "a", tmp_path / "b") as written:
        for file in written:
            file.write_text("x")
    assert flushed == ["b", "a", tmp_path.name]
