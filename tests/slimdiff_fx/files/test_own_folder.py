"""A saved folder is replaced only if all of it is what slimdiff_fx wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.files import manifest
from slimdiff_fx.files import own_folder as module
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.manifest import MANIFEST_FILE, read_manifest
from slimdiff_fx.files.own_folder import check_own_folder, later_files, own_folder
from slimdiff_fx.files.partial_files import drop_partial, make_partial
from tests.file_tree import tree

CONTENT = {
    "model_index.json": json.dumps({"_class_name": "X", "unet": ["slimdiff_fx", "Y"], "vae": ["diffusers", "Z"]}),
    "report.json": json.dumps({"format": 1, "policy": {}, "summary": {}}),
    "README.md": "card",
    "pictures/00-slim.png": "picture",
    "unet/config.json": "{}",
    "unet/slim_plan.json": "{}",
    "unet/diffusion_pytorch_model.safetensors": "weights",
    "vae/config.json": "{}",
    "vae/diffusion_pytorch_model-00001-of-00002.safetensors": "weights",
}


def write(folder: Path, *, overwrite: bool = False, content: str = "new") -> None:
    with own_folder(folder, overwrite=overwrite) as partial:
        for name, text in CONTENT.items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(text)
        (partial / "which.txt").write_text(content)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write(tmp_path / "saved", content="old")
    return tmp_path / "saved"


def test_it_is_written_with_a_record_and_replaced_whole(saved: Path) -> None:
    listed = read_manifest(saved)
    assert listed is not None
    assert listed.keys() == {*CONTENT, "which.txt"}
    assert listed["which.txt"].bytes == 3
    # printf old | sha256sum
    assert listed["which.txt"].sha256 == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
    with pytest.raises(OutputError, match="`overwrite=True`"):
        write(saved)
    write(saved, overwrite=True)
    assert (saved / "which.txt").read_text() == "new"
    assert os.listdir(saved.parent) == ["saved"]
    for name in ("which.txt", "unet/config.json"):
        (saved / name).unlink()  # what isn't there can't be lost
    write(saved, overwrite=True)


def _replace_by_link(saved: Path) -> None:
    (saved / "README.md").rename(saved.parent / "README.md")
    (saved / "README.md").symlink_to(saved.parent / "README.md")


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda saved: (saved / "notes.txt").write_text("mine"), "didn't write notes.txt"),
    "a hidden file": (lambda saved: (saved / ".git").write_text("mine"), r"didn't write \.git"),
    "a file below": (lambda saved: (saved / "unet" / "mine").write_text("mine"), "didn't write unet/mine"),
    "an empty folder": (lambda saved: (saved / "mine" / "empty").mkdir(parents=True), "didn't make the folder mine"),
    "a link": (lambda saved: (saved / "mine").symlink_to(saved.parent), "didn't write mine"),
    "a pipe": (lambda saved: os.mkfifo(saved / "mine"), "didn't write mine"),
    "a link in a file's place": (_replace_by_link, r"didn't write README\.md"),
    "another length": (lambda saved: (saved / "which.txt").write_text("mine now"), r"which\.txt in it was changed"),
    "the same length": (lambda saved: (saved / "which.txt").write_text("odl"), r"which\.txt in it was changed"),
    "a garbled record": (lambda saved: (saved / MANIFEST_FILE).write_text("{"), "garbled"),
    "an empty record": (
        lambda saved: (saved / MANIFEST_FILE).write_text(manifest.empty_manifest()),
        r"didn't write README\.md",
    ),
    "no record": (lambda saved: (saved / MANIFEST_FILE).unlink(), r"didn't write which\.txt"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_somebodys_stays(harm: str, saved: Path) -> None:
    change, reason = HARM[harm]
    change(saved)
    before = tree(saved.parent)
    with pytest.raises(OutputError, match=reason):
        check_own_folder(saved, overwrite=True)
    with pytest.raises(OutputError, match=reason):
        write(saved, overwrite=True)
    assert tree(saved.parent) == before


def test_what_came_while_it_was_written_stays(saved: Path) -> None:
    def write_while_somebody_works() -> None:
        with own_folder(saved, overwrite=True) as partial:
            (partial / "which.txt").write_text("new")
            (saved / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"notes\.txt"):
        write_while_somebody_works()
    assert (saved / "which.txt").read_text() == "old"
    assert (saved / "notes.txt").read_text() == "mine"
    assert os.listdir(saved.parent) == ["saved"]


def test_a_folder_that_cant_be_read_stays(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "unet"))

    monkeypatch.setattr(module, "files_in", fails)
    with pytest.raises(OutputError, match="unet can't be read"):
        write(saved, overwrite=True)
    assert (saved / "which.txt").read_text() == "old"


def test_an_empty_folder_is_nobodys(tmp_path: Path) -> None:
    for overwrite in (False, True):
        folder = tmp_path / str(overwrite)
        folder.mkdir()
        write(folder, overwrite=overwrite)
        assert (folder / "which.txt").read_text() == "new"


def test_what_is_written_into_it_later_is_recorded(saved: Path) -> None:
    """Exports and pages: they go with the folder, and are named before."""
    assert later_files(saved) == ()
    with replaced_file(saved / "unet.onnx") as partial:
        partial.write_text("graph")
    with replaced_file(saved / "report.html") as partial:
        partial.write_text("page")
    assert later_files(saved) == ("report.html", "unet.onnx")
    with replaced_file(saved / "report.html") as partial:
        partial.write_text("another page")
    (saved / "unet.onnx").unlink()
    assert later_files(saved) == ("report.html",)
    check_own_folder(saved, overwrite=True)
    (saved / "report.html").write_text("edited page")
    with pytest.raises(OutputError, match=r"report\.html in it was changed"):
        check_own_folder(saved, overwrite=True)
    (saved / "report.html").unlink()
    write(saved, overwrite=True)
    assert later_files(saved) == ()


def test_an_export_that_is_being_written_there_is_waited_for(saved: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    (saved / f".unet.onnx.partial-{dead.pid}").mkdir()
    check_own_folder(saved, overwrite=True)
    assert not list(saved.glob(".unet.onnx*"))
    partial = make_partial(saved / "unet.pt2")
    with pytest.raises(OutputError, match=r"writing unet\.pt2"):
        check_own_folder(saved, overwrite=True)
    drop_partial(partial)


@pytest.mark.parametrize("stranger", [None, "CREDITS.md", "unet/lora.safetensors", "vae/notes.txt", "mine/config.json"])
def test_a_folder_of_an_earlier_version(stranger: str | None, tmp_path: Path) -> None:
    """It has no record: only what is ours by name is replaced, and only in what is a slim folder altogether."""
    folder = tmp_path / "old"
    for name, text in {**CONTENT, "unet.int8.onnx": "graph", "unet.xml": "graph"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert later_files(folder) == ("unet.int8.onnx", "unet.xml")
    if stranger is None:
        write(folder, overwrite=True)
        assert read_manifest(folder) is not None
        return
    (folder / stranger).parent.mkdir(exist_ok=True)
    (folder / stranger).write_text("mine")
    with pytest.raises(OutputError, match=f"didn't write {stranger}"):
        write(folder, overwrite=True)


@pytest.mark.parametrize("missing", ["report.json", "model_index.json", "unet/slim_plan.json"])
def test_a_dense_folder_is_not_one_of_an_earlier_version(missing: str, tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    for name, text in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / missing).unlink()
    with pytest.raises(OutputError, match=r"didn't write README\.md"):
        write(folder, overwrite=True)


def test_the_input_is_never_the_output(saved: Path) -> None:
    before = tree(saved)
    for out in (saved, saved / "unet", saved.parent):
        with (
            pytest.raises(OutputError, match="the pipeline names"),
            own_folder(out, overwrite=True, inputs={"the pipeline": saved}),
        ):
            pass
    assert tree(saved) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": 1}}', "\x00"])
def test_a_garbled_record_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="is garbled"):
        read_manifest(tmp_path)
