"""What the system is asked to do when files come into place: written out first, and in an order that is never wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from passes.calibrate.statistics import Statistics
from passes.errors import CheckpointError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.files import atomic_write
from slimdiff_fx.files.atomic_write import replaced_file, replaced_files, replaced_folder
from slimdiff_fx.files.plan_file import save_plan
from slimdiff_fx.files.statistics_file import StoredStatistics, save_statistics
from tests.toy_block import build, capture_block

EXPORTER = sys.modules["slimdiff_fx.export.to_onnx.export"]
Event = tuple[str, int, str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Note what is written out and what is renamed, by the file itself, which no rename changes, and its new name."""
    noted: list[Event] = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def fsync(descriptor: int) -> None:
        noted.append(("written out", os.fstat(descriptor).st_ino, ""))
        sync(descriptor)

    def moved(plain: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **options: Any) -> None:
            noted.append(("renamed", os.stat(source).st_ino, Path(target).name))
            plain(source, target, **options)

        return move

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", moved(replace))
    monkeypatch.setattr(os, "rename", moved(rename))
    return noted


def assert_placed(events: list[Event], *files: Path) -> None:
    """Each file was written out before it got its name, and they got their names in this order."""
    names = [file.name for file in files]
    placed = [(at, inode, name) for at, (what, inode, name) in enumerate(events) if what == "renamed" and name in names]
    assert [name for _, _, name in placed] == names
    for (at, inode, name), file in zip(placed, files, strict=True):
        assert inode == file.stat().st_ino
        assert ("written out", inode, "") in events[:at], f"{name} got its name before it was written out"


def test_one_file(events: list[Event], tmp_path: Path) -> None:
    file = tmp_path / "one"
    with replaced_file(file) as partial:
        partial.write_text("new")
    assert_placed(events, file)


def test_files_that_belong_together_come_last_to_first(events: list[Event], tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.xml", "a.bin", "a.more"))
    with replaced_files(first, second, third) as partials:
        for partial, text in zip(partials, "123", strict=True):
            partial.write_text(text)
    assert [file.read_text() for file in (first, second, third)] == ["1", "2", "3"]
    assert_placed(events, second, third, first)


@pytest.mark.parametrize("before", [True, False])
def test_everything_in_a_folder_is_written_out(
    before: bool, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_write, "_exchange", lambda one, other: False)
    folder = tmp_path / "out"
    if before:
        folder.mkdir()
        (folder / "old").write_text("old")
    with replaced_folder(folder, overwrite=True) as partial:
        (partial / "deep" / "er").mkdir(parents=True)
        for place in (partial / "one", partial / "deep" / "two", partial / "deep" / "er" / "three"):
            place.write_text(place.name)
    named = next(at for at, (what, _, name) in enumerate(events) if what == "renamed" and name == "out")
    files = [folder / "one", folder / "deep" / "two", folder / "deep" / "er" / "three"]
    written_out = {inode for what, inode, _ in events[:named] if what == "written out"}
    assert {file.stat().st_ino for file in files} <= written_out
    assert not (folder / "old").exists()


@pytest.mark.parametrize("external", [True, False])
def test_an_onnx_file_comes_behind_its_data(
    external: bool, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(graph: object, file: Path) -> None:
        file.write_bytes(b"graph")
        if external:
            file.with_name(f"{file.name}.data").write_bytes(b"data")

    monkeypatch.setattr(EXPORTER, "onnx_graph", lambda *_, **__: None)
    monkeypatch.setattr(EXPORTER, "save_graph", save)
    monkeypatch.setattr(EXPORTER, "onnx_runner", lambda file: (None, "none"))
    monkeypatch.setattr(EXPORTER, "measure_parity", lambda *_, **__: "compared")
    file = tmp_path / "toy.onnx"
    report: object = export_onnx(capture_block(build(dtype=torch.float32)), file, inputs=[])
    assert report == "compared"
    assert_placed(events, *([tmp_path / "toy.onnx.data"] if external else []), file)


def test_a_plan_comes_behind_its_weights(events: list[Event], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    save_plan(SlimPlan({}, {}, updates={"a.weight": torch.ones(2)}), file)
    assert_placed(events, tmp_path / "plan.safetensors", file)


def test_statistics(events: list[Event], tmp_path: Path) -> None:
    save_statistics(StoredStatistics(Statistics({}, 0, 0, 1.0, {}), {}, 0, 0), tmp_path / "statistics")
    assert_placed(events, tmp_path / "statistics")


def test_a_second_rename_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system can't exchange two folders in one step."""
    monkeypatch.setattr(atomic_write, "_exchange", lambda one, other: False)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old")
    plain, renames = os.rename, 0

    def second_fails(source: Any, target: Any) -> None:
        nonlocal renames
        renames += 1
        if renames == 2:
            raise OSError(5, "Input/output error")
        plain(source, target)

    monkeypatch.setattr(os, "rename", second_fails)

    def write() -> None:
        with replaced_folder(folder, overwrite=True) as partial:
            (partial / "new").write_text("new")

    with pytest.raises(CheckpointError, match=r"Input/output error; what was there before is untouched"):
        write()
    assert renames == 3
    assert (folder / "old").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_file_that_cant_be_written_out_is_not_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.xml", tmp_path / "a.bin"
    for file in (first, second):
        file.write_text("old")

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)

    def write() -> None:
        with replaced_files(first, second) as partials:
            for partial in partials:
                partial.write_text("new")

    with pytest.raises(CheckpointError, match="Input/output error"):
        write()
    assert [file.read_text() for file in (first, second)] == ["old", "old"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.bin", "a.xml"]
