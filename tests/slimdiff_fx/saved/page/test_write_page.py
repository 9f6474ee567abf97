"""The page as a file: what is in it, what it says is missing, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from passes.errors import CheckpointError, OutputError
from slimdiff_fx.cli import app
from slimdiff_fx.saved.page.depth_map import depth_map
from slimdiff_fx.saved.page.write_page import write_page
from slimdiff_fx.saved.site_names import short_name


@pytest.fixture
def folder(slim_folders: dict[str, Path], tmp_path: Path) -> Path:
    """Give a copy that may be changed."""
    return Path(shutil.copytree(slim_folders["best"], tmp_path / "slim"))


def _page(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as other:
        return write_page(folder, Path(other) / "page.html").read_text(encoding="utf-8")


def test_the_command_writes_the_page_into_the_folder(folder: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert (folder / "report.html").is_file()
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0, "made anew from the folder"


def test_another_file_is_not_replaced_unasked(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(CheckpointError, match="`overwrite=True`"):
        write_page(folder, out)
    with pytest.raises(OutputError, match=r"page\.html is not a page of slimdiff_fx"):
        write_page(folder, out, overwrite=True)
    assert out.read_text() == "mine"
    out.unlink()
    write_page(folder, out)
    out.write_text(f"{out.read_text()}<!-- an older one -->")
    with pytest.raises(CheckpointError, match="`overwrite=True`"):
        write_page(folder, out)
    write_page(folder, out, overwrite=True)
    assert out.read_text().startswith("<!doctype html>")
    assert "an older one" not in out.read_text()


def test_nothing_in_it_leads_out_of_it(folder: Path) -> None:
    page = _page(folder)
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", page) == []
    assert re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", page) == []
    assert page.count("https://") == 0
    assert set(re.findall(r"http://[^\"]*", page)) <= {"http://www.w3.org/2000/svg"}


def test_names_and_prompts_are_text_and_never_markup(folder: Path) -> None:
    page = _page(folder)
    assert "toy <pipeline>" not in page
    assert "toy &lt;pipeline&gt;" in page


def test_a_script_in_the_data_stays_data(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["summary"]["sites"][0]["name"] = "mid_block.</script><script>alert(1)</script>"
    (folder / "report.json").write_text(json.dumps(report))
    assert "<script>alert" not in _page(folder)


def test_a_folder_that_was_applied_says_what_is_missing_and_how_to_get_it(slim_folders: dict[str, Path]) -> None:
    page = _page(slim_folders["applied"])
    assert "no scores, error curves" in page
    assert "no pictures" in page
    assert "slimdiff-fx slim toy &lt;pipeline&gt; -o DIR" in page


def test_a_sweep_that_was_not_measured_says_how_to(slim_folders: dict[str, Path]) -> None:
    assert "-o DIR --sweep 6</code>" in _page(slim_folders["threshold"])
    assert "--sweep 6</code>" not in _page(slim_folders["best"])


def test_a_folder_of_an_earlier_version_shows_its_sheet(folder: Path) -> None:
    (folder / "analysis.json").unlink()
    shutil.rmtree(folder / "pictures")
    report = json.loads((folder / "report.json").read_text())
    del report["pictures"]["folder"]
    (folder / "report.json").write_text(json.dumps(report))
    page = _page(folder)
    assert 'class="sheet" src="data:image/png;base64,' in page
    assert "earlier version" in page


def test_what_is_no_slim_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no report\.json"):
        write_page(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}'])
def test_a_garbled_report_is_refused_and_the_page_stays(folder: Path, text: str) -> None:
    before = (folder / "report.html").read_bytes()
    (folder / "report.json").write_text(text)
    with pytest.raises(CheckpointError, match="slim again"):
        write_page(folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_damaged_picture_is_refused_by_name(folder: Path) -> None:
    (folder / "pictures/01-slim.png").write_bytes(b"no picture")
    with pytest.raises(CheckpointError, match=r"01-slim\.png is damaged"):
        write_page(folder)


def test_a_unet_lies_level_by_level() -> None:
    names = [
        f"{block}.attentions.0.transformer_blocks.0.attn1" for block in ("down_blocks.1", "mid_block", "up_blocks.2")
    ]
    found = depth_map([*names, "up_blocks.3.attentions.0.transformer_blocks.0.attn1"])
    levels = [[block and block.name for block in level] for level in found.levels]
    assert levels == [[None, "up_blocks.3"], ["down_blocks.1", "up_blocks.2"], [None, None], [None, None]]
    assert found.middle is not None
    assert found.middle.sites == [1]


def test_a_transformer_lies_block_by_block() -> None:
    found = depth_map(["transformer_blocks.0.attn1", "transformer_blocks.0.ff.net", "transformer_blocks.1.attn1"])
    assert [(block.name, block.sites) for block in found.rows] == [
        ("transformer_blocks.0", [0, 1]),
        ("transformer_blocks.1", [2]),
    ]


def test_short_names_tell_sites_apart() -> None:
    names = [
        f"{place}.attentions.{one}.transformer_blocks.{two}.{end}"
        for place in ("down_blocks.0", "mid_block", "up_blocks.10")
        for one in (0, 1)
        for two in (0, 1)
        for end in ("attn1", "attn2", "ff.net")
    ]
    assert len({short_name(name) for name in names}) == len(names)
    assert short_name("transformer_blocks.3.ff.net") == "transformer 3 · ff"
