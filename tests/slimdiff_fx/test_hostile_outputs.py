"""Outputs that must not or can't be written: one line, exit code 2, before any work, and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from passes.errors import OutputError
from slimdiff_fx.files import output_paths
from slimdiff_fx.files.own_folder import own_folder
from tests.failing_command import QUICK, run
from tests.file_tree import tree

FOLDERS, FILES = ("slim", "apply"), ("calibrate", "plan", "export", "report")
# What a plan, statistics and a page begin with: enough to be told from others.
PLAN = json.dumps({"format": 2, "fingerprint": {}, "sites": {}, "updates": {}})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder with inputs in it. None is ever read: what is wrong is told before."""
    model = tmp_path / "work" / "model"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (model / "report.json").write_text("{}")
    (model / "unet" / "weights.safetensors").write_bytes(b"weights")
    images = tmp_path / "work" / "images"
    images.mkdir()
    (images / "cat.png").write_bytes(b"a picture")
    (images / "cat.txt").write_text("a cat")
    (tmp_path / "work" / "prompts.txt").write_text("a rose\n")
    (tmp_path / "work" / "plan.json").write_text(PLAN)
    save_file({"x": torch.zeros(1)}, tmp_path / "work" / "sums.safetensors", {"calibration": "{}"})
    (tmp_path / "work" / "notes.txt").write_text("precious")
    return tmp_path / "work"


def words(command: str, place: Path, *, images: bool = False) -> list[object]:
    source: list[object] = ["--images", place / "images"] if images else ["--prompts", place / "prompts.txt"]
    return {
        "slim": ["slim", place / "model", *source, *QUICK],
        "apply": ["apply", place / "model", "--plan", place / "plan.json"],
        "calibrate": ["calibrate", place / "model", *source, "--samples", 2],
        "plan": ["plan", place / "model", "--statistics", place / "sums.safetensors"],
        "export": ["export", place / "model", "--format", "onnx"],
        "report": ["report", place / "model"],
    }[command]


def refused(command: str, place: Path, out: object, *options: object, images: bool = False) -> str:
    """Run a command with and without --overwrite; give the line of the run that may overwrite."""
    before = tree(place.parent)
    for more in ((), ("--overwrite",)):
        line = run(*words(command, place, images=images), "-o", out, *options, *more, expect=2)
        assert tree(place.parent) == before
    return line


def _node(place: Path) -> Path:
    node = place / "node"
    try:
        os.mknod(node, 0o20666, os.makedev(1, 3))
    except OSError:
        os.mkfifo(node)
    return node


def _fifo(place: Path) -> Path:
    os.mkfifo(place / "fifo")
    return place / "fifo"


def _socket(place: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(place)  # the addresses of sockets are short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
    return place / "socket"


def _link(place: Path, target: str | Path) -> Path:
    (place / "link").symlink_to(target)
    return place / "link"


def _loop(place: Path) -> Path:
    (place / "one").symlink_to("two")
    (place / "two").symlink_to("one")
    return place / "one"


EVERYWHERE: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "device": (_node, "neither a file nor a folder"),
    "pipe": (_fifo, "neither a file nor a folder (a pipe)"),
    "socket": (_socket, "neither a file nor a folder (a socket)"),
    "link to a device": (lambda place: _link(place, _node(place)), "neither a file nor a folder"),
    "link to nothing": (lambda place: _link(place, "nowhere"), "a link to nowhere, which isn't there"),
    "links in a circle": (_loop, "round in a circle"),
    "in a file": (lambda place: place / "notes.txt" / "out", "in something that is no folder"),
    "deep in a file": (lambda place: place / "notes.txt" / "a" / "out", "in something that is no folder"),
    "long name": (lambda place: place / ("x" * 256), "too long"),
    "long name in two-byte letters": (lambda place: place / ("ü" * 128), "too long"),
    "long path": (lambda place: place / Path(*["x" * 200] * 20), "too long"),
    "the model": (lambda place: place / "model", ""),
    "the model by a link": (lambda place: _link(place, "model"), ""),
    "the model by a roundabout way": (lambda place: place / "model" / "unet" / "..", ""),
    "in the model's folder": (lambda place: place / "model" / "unet" / "out", "lies inside"),
    "above the model": (lambda place: place, ""),
    "somebody's file": (lambda place: place / "notes.txt", ""),
}


@pytest.mark.parametrize("hostile", EVERYWHERE)
@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_refused_by_every_command(command: str, hostile: str, place: Path) -> None:
    make, reason = EVERYWHERE[hostile]
    assert reason in refused(command, place, make(place))


def test_a_device_by_its_usual_name() -> None:
    """In a folder of its own it would be replaced by whoever may: so ask the rule, not a command."""
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(OutputError, match="a device"):
            output_paths.follow(device)


@pytest.mark.parametrize(
    ("command", "out", "reason"),
    [
        ("slim", "prompts.txt", "is a file"),
        ("slim", "model/out", "lies inside"),
        ("apply", "model/out", "lies inside"),
        ("apply", "plan.json", "is a file"),
        ("calibrate", "prompts.txt", "is what --prompts names"),
        ("calibrate", "model/out", "lies inside"),
        ("calibrate", "model/model_index.json", "lies inside"),
        ("plan", "sums.safetensors", "is what --statistics names"),
        ("plan", "sums.json", "sums.safetensors is what --statistics names"),
        ("plan", "model/out.json", "lies inside"),
        ("export", "model/unet/out.onnx", "lies inside"),
        ("export", "model/model_index.json", "is not an ONNX file"),
        ("export", "plan.json", "is not an ONNX file"),
        ("export", "sums.safetensors", "is not an ONNX file"),
        ("report", "model/report.json", "is not a page"),
        ("report", "model/unet/page.html", "lies inside"),
        ("report", "plan.json", "is not a page"),
    ],
)
def test_inputs_are_not_outputs(command: str, out: str, reason: str, place: Path) -> None:
    assert reason in refused(command, place, place / out)


@pytest.mark.parametrize("out", ["images", "images/slim", "images/cat.txt", "."])
@pytest.mark.parametrize("command", ["slim", "calibrate"])
def test_pictures_are_not_outputs(command: str, out: str, place: Path) -> None:
    refused(command, place, place / out, images=True)


@pytest.mark.parametrize("work", ["", "m", "a/b"])
def test_work_goes_outside_of_the_output(work: str, place: Path) -> None:
    reason = "names; choose another output"
    assert reason in refused("slim", place, place / "out", "--moments-folder", place / "out" / work)
    latency = ("--keep-latency", "0.9", "--latency-cache", place / "out" / work)
    assert reason in refused("slim", place, place / "out", *latency)


def test_a_place_for_work_is_tried_before_the_work(place: Path) -> None:
    latency = ("--keep-latency", "0.9", "--latency-cache")
    for folder, reason in [(place / "notes.txt", "is no folder"), (_fifo(place), "a pipe")]:
        assert reason in refused("slim", place, place / "out", *latency, folder)
    before = tree(place.parent)
    line = run(*words("slim", place), "-o", place / "out", "--moments-folder", place / "notes.txt", expect=2)
    assert "second moments can't be kept" in line
    assert tree(place.parent) == before


def test_the_default_place_of_exports_and_pages(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the model's folder, and looked at before the model is."""
    for file in ("unet.onnx", "unet.int8.xml", "report.html"):
        (place / "model" / file).write_text("precious")
    before = tree(place.parent)
    export = words("export", place)
    assert "unet.onnx exists" in run(*export, expect=2)
    assert "unet.onnx is not an ONNX file" in run(*export, "--overwrite", expect=2)
    export[-1] = "openvino"
    assert "unet.int8.xml exists" in run(*export, "--int8", "weights", expect=2)
    assert "report.html is not a page" in run(*words("report", place), expect=2)
    monkeypatch.setattr(output_paths.os, "access", lambda path, mode: Path(path) != place / "model")
    assert "can't be written to" in run(*export, expect=2)
    assert tree(place.parent) == before


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize(("out", "reason"), [("nowhere/out", "there is no folder"), ("images", "is a folder")])
def test_no_place_for_a_file(command: str, out: str, reason: str, place: Path) -> None:
    assert reason in refused(command, place, place / out)


@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_a_folder_that_cant_be_written_to(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may write everywhere, a system that says no stands in for a file system that is read-only."""
    monkeypatch.setattr(output_paths.os, "access", lambda path, mode: Path(path) != place)
    assert "can't be written to" in refused(command, place, place / "out")


@pytest.mark.parametrize("command", FOLDERS)
def test_missing_parents_are_made_only_where_that_can_be(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_paths.os, "access", lambda path, mode: Path(path) != place)
    assert "can't be written to" in refused(command, place, place / "a" / "b" / "out")


def test_the_checkpoint_of_a_folder_with_missing_parents_has_a_place(place: Path) -> None:
    (place / "prompts.txt").unlink()
    line = run(*words("slim", place), "-o", place / "a" / "b" / "out", expect=2)
    assert "prompts.txt" in line  # the next thing that is wrong
    assert (place / "a" / "b").is_dir()


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_can_never_be_replaced(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "empty" / "below").mkdir(parents=True)
    monkeypatch.chdir(place / "empty" / "below")
    for out in (".", "..", place / "empty", "", "/"):
        assert "current folder" in refused(command, place, out)
    monkeypatch.chdir(place.parent)
    monkeypatch.setattr(output_paths.os.path, "ismount", lambda path: Path(path) == place / "empty" / "below")
    assert "mounted" in refused(command, place, place / "empty" / "below")


@pytest.mark.parametrize(
    ("command", "beside"), [("slim", "out.calibration.safetensors"), ("calibrate", "out.checkpoint")]
)
def test_what_lies_where_the_checkpoint_goes_stays(command: str, beside: str, place: Path) -> None:
    (place / beside).write_text("precious")
    assert f"{beside} is not statistics" in refused(command, place, place / "out")
    (place / beside).unlink()
    assert "more for what is written beside it" in refused(command, place, place / ("x" * 245))


def test_what_lies_where_a_second_file_goes_stays(place: Path) -> None:
    (place / "out.safetensors").write_text("precious")
    (place / "out.onnx.data").write_text("precious")
    assert "out.safetensors would be replaced" in refused("plan", place, place / "out.json")
    assert "out.onnx.data would be replaced" in refused("export", place, place / "out.onnx")
    assert "choose another ending" in refused("plan", place, place / "new.safetensors")


@pytest.mark.parametrize("command", FOLDERS)
def test_a_strangers_file_in_our_folder(command: str, place: Path) -> None:
    with own_folder(place / "out", overwrite=False) as partial:
        (partial / "unet").mkdir()
        (partial / "unet" / "config.json").write_text("{}")
    (place / "out" / "unet" / "notes.txt").write_text("precious")
    assert "slimdiff_fx didn't write unet/notes.txt" in refused(command, place, place / "out")


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_of_documents(command: str, place: Path) -> None:
    shutil.copytree(place / "images", place / "docs")
    assert "slimdiff_fx didn't write cat.png" in refused(command, place, place / "docs")
    assert "didn't write cat.png" in refused(command, place, _link(place, "docs"))


def test_tilde_is_the_home_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place.parent)
    line = run("calibrate", "~/model", "--prompts", "~/prompts.txt", "-o", "~/prompts.txt", expect=2)
    assert f"{place / 'prompts.txt'} is what --prompts names" in line
    line = run("plan", "~/model", "--statistics", "~/sums.safetensors", "-o", "~/sums.json", expect=2)
    assert f"{place / 'sums.safetensors'} is what --statistics names" in line
    line = run("slim", "~/model", "--images=~/images", "--out=~/images", *QUICK, expect=2)
    assert f"{place / 'images'} is what --images names" in line
    line = run("slim", "~/model", "-o", "out", "--moments-folder=~/../out/m", *QUICK, expect=2)
    assert "--moments-folder" in line
    line = run("report", "~/model", "-o", "~/notes.txt", "--overwrite", expect=2)
    assert f"{place / 'notes.txt'} is not a page" in line
    assert not (place.parent / "~").exists()
