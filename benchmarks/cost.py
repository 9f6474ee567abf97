"""What does the tool itself cost? Observers over a plain forward, and each stage from 10M to 2.6B parameters.

python -m benchmarks.cost                  everything, what is measured already left out
python -m benchmarks.cost --part overhead  the observers alone
python -m benchmarks.cost --quick          a minute's worth, on toys
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cost_cells import OVERHEAD, QUICK, SCALING
from benchmarks.exponent import Exponent, fit_exponent
from benchmarks.measure import RESULTS, write_result

ROOT = Path(__file__).parents[1]
STAGES = ("capture", "analyze", "rewrite", "validate", "lower")


class Part(StrEnum):
    """What is measured."""

    all = "all"
    overhead = "overhead"
    scaling = "scaling"


class CellFailed(Exception):
    """A cell's process failed; what it wrote is on the terminal."""


def run_cell(name: str) -> dict[str, Any]:
    """Measure one cell in a process of its own.

    Raises:
        CellFailed: it ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cell.json"
        done = subprocess.run([sys.executable, "-m", "benchmarks.cost_cells", name, str(file)], cwd=ROOT, check=False)
        if done.returncode:
            raise CellFailed(f"{name} failed (exit code {done.returncode})")
        result: dict[str, Any] = json.loads(file.read_text())
        return result


def measure_missing(
    results: dict[str, Any],
    wanted: Sequence[str],
    *,
    name: str,
    folder: Path,
    run: Callable[[str], dict[str, Any]] = run_cell,
) -> None:
    """Measure the cells that aren't in the results, writing the file after each.

    Args:
        results: what is there already; grows.
        wanted: names of cells.
        name: of the JSON file, without its ending.
        folder: where that goes.
        run: measures one.
    """
    for cell in wanted:
        if cell not in results["cells"]:
            results["cells"][cell] = run(cell)
            results["exponents"] = {
                over: {what: asdict(found) for what, found in exponents(results["cells"], over).items()}
                for over in ("params", "nodes")
            }
            write_result(name, results, folder)


def read_results(file: Path) -> dict[str, Any]:
    """Read what an earlier run left."""
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    return {"benchmark": "cost", "cells": {}, "exponents": {}}


def _sizes(cells: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(name.partition("/")[2], cell) for name, cell in cells.items() if name.startswith("scaling/")]
    return sorted(found, key=lambda each: each[1]["params"])


def exponents(cells: Mapping[str, Any], over: str) -> dict[str, Exponent]:
    """Fit how processor time of each stage, and the peak of memory, grow.

    Args:
        cells: the results' cells.
        over: "params" or "nodes" (of the captured graph).
    """
    sizes = [cell for _, cell in _sizes(cells)]
    x = [cell[over] for cell in sizes]
    series = {stage: [cell["stages"][stage]["cpu_seconds"] for cell in sizes] for stage in STAGES}
    series["all"] = [cell["cpu_seconds"] for cell in sizes]
    series["peak"] = [cell["peak_gb"] for cell in sizes]
    fits = {what: fit_exponent(x, [max(value, 0.01) for value in y]) for what, y in series.items()}
    return {what: fit for what, fit in fits.items() if fit is not None}


def overhead_table(cells: Mapping[str, Any]) -> Table:
    """Show what observers cost."""
    table = Table(title="observers over a plain forward, one thread, processor time")
    for column in ("model", "batch", "sites", "forward, ms", "watched", "overhead", "of it sums", "fastest", "runs"):
        table.add_column(column, justify="right")
    for name, cell in cells.items():
        if name.startswith("overhead/"):
            for what, each in cell["watched"].items():
                table.add_row(
                    name.partition("/")[2],
                    str(cell["batch"]),
                    str(cell["sites"]),
                    f"{cell['plain']['median_ms']:.1f}",
                    what,
                    f"{each['overhead']:+.1%}",
                    f"{each['of_it_sums']:.1%}",
                    f"{each['overhead_of_fastest']:+.1%}",
                    str(each["runs"]),
                )
    return table


def scaling_table(cells: Mapping[str, Any]) -> Table:
    """Show processor seconds of each stage and the peak of memory, by size."""
    table = Table(title="stages by size: processor seconds on one thread; wall time and peak memory of all")
    memory = ("weights, GB", "peak, GB", "peak over loaded ÷ weights")
    for column in ("size", "params, M", "nodes", *STAGES, "all", "wall, s", *memory):
        table.add_column(column, justify="right")
    for name, cell in _sizes(cells):
        table.add_row(
            f"{name} {cell['dtype']}",
            f"{cell['params'] / 1e6:.1f}",
            str(cell["nodes"]),
            *(f"{cell['stages'][stage]['cpu_seconds']:.1f}" for stage in STAGES),
            f"{cell['cpu_seconds']:.1f}",
            f"{cell['seconds']:.1f}",
            f"{cell['weights_gb']:.2f}",
            f"{cell['peak_gb']:.2f}",
            f"{cell['peak_over_loaded_ratio']:.2f}",
        )
    for over in ("params", "nodes"):
        fits = exponents(cells, over)
        if fits:
            shown = [str(fits[what]) for what in (*STAGES, "all")]
            table.add_row(f"exponent over {over}", "", "", *shown, "", "", str(fits["peak"]), "")
    return table


def calibration_lines(folder: Path) -> list[str]:
    """Say how fast calibration is, from what `benchmarks.calibration` left; nothing if it left nothing."""
    file = folder / "calibration.json"
    if not file.is_file():
        return []
    return [f"calibration, {what}: {value:.2f} samples/s" for what, value in _rates(json.loads(file.read_text()))]


def _rates(value: Any, at: str = "") -> list[tuple[str, float]]:
    """Find every "samples_per_second", however deep."""
    found = []
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if key == "samples_per_second" and isinstance(part, int | float):
            found.append((at or "all", float(part)))
        found.extend(_rates(part, f"{at} {key}".strip()))
    return found


def main(
    part: Annotated[Part, typer.Option(help="What to measure.")] = Part.all,
    quick: Annotated[bool, typer.Option(help="Toys only: shows that it works.")] = False,
    sizes: Annotated[list[str] | None, typer.Option("--size", help="Sizes to measure; all if not given.")] = None,
    anew: Annotated[bool, typer.Option(help="Forget what is measured already.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Measure what is missing, and show all."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    name = "cost-quick" if quick else "cost"
    results = read_results(Path() if anew else output / f"{name}.json")
    wanted = list(QUICK if quick else {**OVERHEAD, **SCALING})
    if part is not Part.all:
        wanted = [cell for cell in wanted if cell.startswith(f"{part.value}/")]
    if sizes:
        unknown = set(sizes) - {cell.partition("/")[2] for cell in wanted}
        if unknown:
            known = ", ".join(cell.partition("/")[2] for cell in wanted)
            print(f"error: no size {min(unknown)!r}; there are {known}", file=sys.stderr)
            raise typer.Exit(2)
        wanted = [cell for cell in wanted if cell.partition("/")[2] in sizes]
    try:
        measure_missing(results, wanted, name=name, folder=output)
    except CellFailed as error:
        print(f"error: {error}; what was measured before it is kept", file=sys.stderr)
        raise typer.Exit(1) from error
    console.print(overhead_table(results["cells"]))
    console.print(scaling_table(results["cells"]))
    for line in calibration_lines(output):
        console.print(line, highlight=False)
    console.print(f"written to {output / f'{name}.json'}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
