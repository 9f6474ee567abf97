"""The commands, one after the other, over what they wrote before: replaced where it is ours, told where more goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slimdiff_fx.cli import app
from slimdiff_fx.files.manifest import MANIFEST_FILE
from tests.failing_command import run, runner
from tests.file_tree import tree


def succeed(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def home(toy_pipeline: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home folder with a slim pipeline, written by a path that begins with a tilde, and its page."""
    home, before = tmp_path_factory.mktemp("home"), os.umask(0o027)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        try:
            succeed("apply", toy_pipeline, "--plan", plan, "--out=~/new/slim")
            succeed("report", "~/new/slim")
        finally:
            os.umask(before)
    return home


def test_modes_and_record(home: Path) -> None:
    out = home / "new" / "slim"
    files = [each for each in out.rglob("*") if each.is_file()]
    assert {each.stat().st_mode & 0o777 for each in files} == {0o640}
    assert {each.stat().st_mode & 0o777 for each in (out, *out.iterdir()) if each.is_dir()} == {0o750}
    assert (out / MANIFEST_FILE).is_file()
    assert os.listdir(home) == ["new"]


def test_applied_again_it_is_replaced_with_its_page(
    home: Path, toy_pipeline: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    out = home / "new" / "slim"
    words = ("apply", toy_pipeline, "--plan", plan, "-o", "~/new/slim")
    before = tree(out)
    assert "--overwrite" in run(*words, expect=2)
    assert "also removes" not in succeed(*words, "--overwrite"), "the page is made anew"
    changed = {name for name, content in tree(out).items() if isinstance(content, bytes) and before[name] != content}
    assert changed <= {"report.json", "report.html", "README.md", MANIFEST_FILE}
    (out / "notes.txt").write_text("mine")
    before = tree(out)
    assert "notes.txt" in run(*words, "--overwrite", expect=2)
    assert tree(out) == before
    (out / "notes.txt").unlink()


def test_the_slim_folder_is_not_slimmed_onto_itself(home: Path, plan: Path) -> None:
    out = home / "new" / "slim"
    before = tree(home)
    line = run("apply", out, "--plan", plan, "-o", out, "--overwrite", expect=2)
    assert "is what MODEL names" in line
    line = run("apply", home, "--plan", out / "unet" / "slim_plan.json", "-o", out, "--overwrite", expect=2)
    assert "which --plan names" in line
    assert tree(home) == before


def test_a_plan_over_a_plan_and_statistics_over_statistics(
    toy_pipeline: Path, plan: Path, statistics: Path, tmp_path: Path
) -> None:
    solved = ("plan", toy_pipeline, "--statistics", statistics, "--keep-params", "0.95", "-o", tmp_path / "plan.json")
    succeed(*solved)
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "plan.safetensors"]
    bare = ("plan", toy_pipeline, "--statistics", statistics, "--tau", "0.2", "-o", tmp_path / "plan.json")
    assert "--overwrite" in run(*bare, expect=2)
    succeed(*bare, "--overwrite")
    assert os.listdir(tmp_path) == ["plan.json"]
    assert (tmp_path / "plan.json").read_bytes() == plan.read_bytes()
    out = tmp_path / "s"
    out.write_bytes(statistics.read_bytes())
    calibrate = ("calibrate", toy_pipeline, "-o", out, "--samples", "2", "--steps", "1")
    assert "--overwrite" in run(*calibrate, expect=2)
    succeed(*calibrate, "--overwrite")
    assert out.read_bytes() != statistics.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["plan.json", "s"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_export_lies_in_the_folder_and_is_known_there(home: Path, toy_pipeline: Path, plan: Path) -> None:
    out = home / "new" / "slim"
    words = ("export", out, "--format", "pt2")
    succeed(*words)
    assert (out / "unet.pt2").is_file()
    assert "--overwrite" in run(*words, expect=2)
    succeed(*words, "--overwrite")
    succeed(*words, "-o", out / "another.pt2")
    said = succeed("apply", toy_pipeline, "--plan", plan, "-o", out, "--overwrite")
    assert f"also removes {out / 'unet.pt2'}" in said
    assert f"also removes {out / 'another.pt2'}" in said
    assert not list(out.glob("*.pt2"))
