"""The cost benchmark: cells resume, the exponent is that of a power law, tables show what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.cost import (
    STAGES,
    calibration_lines,
    exponents,
    measure_missing,
    overhead_table,
    read_results,
    scaling_table,
)
from benchmarks.cost_cells import CELLS, OVERHEAD, QUICK, SCALING
from benchmarks.exponent import fit_exponent


def cell(params: int, power: float = 1.0) -> dict[str, Any]:
    """A size whose every cost is a power of its parameters."""
    seconds = 1e-6 * params**power
    return {
        "dtype": "float32",
        "params": params,
        "nodes": 100 + params % 7,
        "stages": {stage: {"cpu_seconds": seconds} for stage in STAGES},
        "cpu_seconds": 5 * seconds,
        "seconds": 4 * seconds,
        "weights_gb": params / 2.5e8,
        "peak_gb": params / 1e8,
        "peak_over_loaded_ratio": 0.5,
    }


def test_the_exponent_of_a_power_law_is_found() -> None:
    x = [1e7, 1e8, 1e9, 3e9]
    fit = fit_exponent(x, [3 * value**0.7 for value in x])
    assert fit is not None
    assert fit.value == pytest.approx(0.7, abs=1e-9)
    assert fit.error == pytest.approx(0, abs=1e-6)
    assert fit_exponent([1, 1], [2, 3]) is None
    two = fit_exponent([1, 10], [1, 100])
    assert two is not None
    assert (str(two), two.error) == ("2.00", None)


def test_uncertainty_covers_the_scatter() -> None:
    x = [1.0, 10.0, 100.0, 1000.0]
    fit = fit_exponent(x, [1.0, 20.0, 50.0, 1500.0])
    assert fit is not None
    assert fit.error is not None
    assert 0.1 < fit.error < 1
    assert abs(fit.value - 1) < fit.error


def test_a_measured_cell_is_not_measured_again_and_a_failure_keeps_the_others(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(name: str) -> dict[str, Any]:
        ran.append(name)
        if name == "scaling/bad":
            raise RuntimeError
        return cell(10 ** (6 + len(ran)), 0.5)

    results = read_results(tmp_path / "cost.json")
    measure_missing(results, ["scaling/a", "scaling/b"], name="cost", folder=tmp_path, run=run)
    again = read_results(tmp_path / "cost.json")
    with pytest.raises(RuntimeError):
        measure_missing(again, ["scaling/a", "scaling/c", "scaling/bad"], name="cost", folder=tmp_path, run=run)
    assert ran == ["scaling/a", "scaling/b", "scaling/c", "scaling/bad"]
    kept = json.loads((tmp_path / "cost.json").read_text())
    assert list(kept["cells"]) == ["scaling/a", "scaling/b", "scaling/c"]
    assert kept["exponents"]["params"]["peak"]["value"] == pytest.approx(1, abs=1e-9)


def test_tables_show_every_cell() -> None:
    watched = {"runs": 3, "overhead": 0.031, "of_it_sums": 0.0, "overhead_of_fastest": 0.02}
    cells = {
        "overhead/toy": {"batch": 2, "sites": 4, "plain": {"median_ms": 10.0}, "watched": {"light": watched}},
        **{f"scaling/s{size}": cell(size, 1.0) for size in (10**6, 10**7, 10**8)},
    }
    assert exponents(cells, "params")["lower"].value == pytest.approx(1, abs=1e-9)
    console = Console(width=200, record=True, file=None)
    console.print(overhead_table(cells))
    console.print(scaling_table(cells))
    text = console.export_text()
    assert "+3.1%" in text
    assert all(f"s{size}" in text for size in (10**6, 10**7, 10**8))
    assert "1.00 ± 0.00" in text


def test_calibration_rates_are_found_wherever_they_are(tmp_path: Path) -> None:
    assert calibration_lines(tmp_path) == []
    rows = {"rows": [{"samples_per_second": 2.5}], "two": {"samples_per_second": 4}}
    (tmp_path / "calibration.json").write_text(json.dumps(rows))
    assert [line.rpartition(": ")[2] for line in calibration_lines(tmp_path)] == ["2.50 samples/s", "4.00 samples/s"]


def test_cells_have_one_name_each() -> None:
    assert len(CELLS) == len(OVERHEAD) + len(SCALING) + len(QUICK)
    assert all(name.split("/")[0] in ("overhead", "scaling") for name in CELLS)


@pytest.mark.slow
def test_a_cell_runs_in_a_process_of_its_own() -> None:
    from benchmarks.cost import CellFailed, run_cell

    assert run_cell("scaling/quick-8")["params"] > 0
    with pytest.raises(CellFailed, match="no-such"):
        run_cell("scaling/no-such")
