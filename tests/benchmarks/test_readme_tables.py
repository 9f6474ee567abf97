"""The README's figures of speed are those of the results, and stay between their comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.readme_blocks import read_block, write_block
from benchmarks.readme_tables import README, blocks, plot_latency, results_of


@pytest.mark.parametrize("name", ["latency", "latency-budget", "cost", "overhead"])
def test_the_readme_says_what_was_measured(name: str) -> None:
    assert read_block(name, README) == blocks()[name]


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
