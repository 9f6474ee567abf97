"""The figures of the README and its pages are those of the results, and stay between their comments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.formats import FORMATS, MODELS, formats_table
from benchmarks.measure import RESULTS
from benchmarks.quality.report import tables
from benchmarks.quantization import PAGE, quantization_table
from benchmarks.readme_blocks import read_block, write_block
from benchmarks.readme_tables import PAGES, ROOT, blocks, plot_latency, results_of


@pytest.mark.parametrize("name", ["summary", "latency", "latency-budget", "cost", "overhead"])
def test_the_readme_says_what_was_measured(name: str) -> None:
    assert read_block(name, PAGES[name]) == blocks()[name]


def test_pages_say_what_was_measured() -> None:
    for name, page, table in (
        ("formats", PAGES["formats"], formats_table),
        ("quality", PAGES["quality"], tables),
        ("quantization", PAGE, quantization_table),
    ):
        result = json.loads((RESULTS / f"{name}.json").read_text())
        assert read_block(name, page) == table(result)


def test_each_table_stands_in_one_place() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for name, place in PAGES.items():
        assert [page for page in pages if read_block(name, page) is not None] == [place]


def test_every_format_was_exported() -> None:
    cells = json.loads((RESULTS / "formats.json").read_text())["cells"]
    assert cells.keys() == {f"{each}/{model}" for each in FORMATS for model in MODELS}
    assert not any("refused" in cell for cell in cells.values())


def test_every_cpu_runtime_ran_on_both_models() -> None:
    ran = {(each["model"], each["backend"]) for each in results_of("latency")}
    assert ran >= {(model, backend) for model in ("emoji", "sd15") for backend in ("ort", "eager", "inductor", "aoti")}
    assert ran >= {(model, "openvino") for model in ("emoji", "sd15")}


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot_latency(results_of("latency"), tmp_path / "latency.png")
    assert (tmp_path / "latency.png").stat().st_size > 10_000


def test_a_block_is_replaced_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- one:begin -->\nold\n<!-- one:end -->\nafter\n")
    write_block("one", "new", readme)
    write_block("another", "lost", readme)
    assert readme.read_text() == "before\n<!-- one:begin -->\nnew\n<!-- one:end -->\nafter\n"
    assert read_block("one", readme) == "new"
    assert read_block("another", readme) is None
