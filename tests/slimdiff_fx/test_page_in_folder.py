"""A saved folder comes with its page, as one of its own files; without a page it is saved all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimdiff_fx.cli import app
from slimdiff_fx.files.manifest import read_manifest
from slimdiff_fx.saved import folder as checkpoint
from tests.failing_command import runner

PAGE = "report.html"


def _apply(model: Path, plan: Path, out: Path, *more: str) -> str:
    result = runner.invoke(app, ["apply", str(model), "--plan", str(plan), "-o", str(out), *more])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_is_one_of_the_folders_own_files(toy_pipeline: Path, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim"
    printed = _apply(toy_pipeline, plan, out)
    record = read_manifest(out) or {}
    assert record[PAGE].is_unchanged(out / PAGE)
    assert not record[PAGE].later, "written with the rest, not put there afterwards"
    assert any(line.split() == ["page", str(out / PAGE)] for line in printed.splitlines())
    assert runner.invoke(app, ["report", str(out)]).exit_code == 0
    record = read_manifest(out) or {}
    assert record[PAGE].is_unchanged(out / PAGE)
    assert not record[PAGE].later, "made anew it is still the folder's own"
    (out / PAGE).write_text(f"{(out / PAGE).read_text(encoding='utf-8')}<!-- my remark -->", encoding="utf-8")
    changed = runner.invoke(app, ["report", str(out)])
    assert changed.exit_code == 2
    assert "was changed since slimdiff_fx wrote it" in changed.output


@pytest.mark.parametrize("error", [OSError(28, "no space"), RuntimeError("a template"), RecursionError()])
def test_a_page_that_fails_loses_nothing_else(
    toy_pipeline: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half_written(folder: Path, name: str) -> str:
        (folder / PAGE).write_text("<!doctype", encoding="utf-8")
        raise error

    monkeypatch.setattr(checkpoint, "page_of", half_written)
    out = tmp_path / "slim"
    printed = _apply(toy_pipeline, plan, out)
    assert "no page could be made" in printed
    assert not (out / PAGE).exists()
    record = read_manifest(out) or {}
    assert PAGE not in record
    assert all(entry.is_unchanged(out / name) for name, entry in record.items())
    assert {"model_index.json", "report.json"} <= record.keys()
    monkeypatch.undo()
    assert runner.invoke(app, ["report", str(out)]).exit_code == 0, "it can be made later"
