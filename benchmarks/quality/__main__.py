"""Which method loses least for every weight removed? Ten of them on the built-in pipeline, at several budgets.

python -m benchmarks.quality [--quick]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.measure import RESULTS
from benchmarks.quality.arena import FULL, QUICK, open_arena
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.grid import cells, missing, read_results, run_cells
from benchmarks.quality.judge import HOW_TO_GET_REAL, REAL, Judge
from benchmarks.quality.report import write_report
from benchmarks.quality.showcase import draw_showcase
from benchmarks.readme_tables import PAGES
from passes.errors import SlimDiffError, UsageError

BUDGETS = (0.15, 0.20, 0.30, 0.41, 0.60, 0.75)
WORK = Path("quality-work")
PICTURES = PAGES["quality"].parent / "pictures"


def main(
    model: Annotated[str, typer.Argument(help="Pipeline folder with captions, or `emoji`.")] = "emoji",
    methods: Annotated[list[str] | None, typer.Option(help="Methods; all if not given.")] = None,
    budgets: Annotated[list[float] | None, typer.Option(help="Shares of the sites' weights to remove.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    quick: Annotated[bool, typer.Option(help="One seed, two budgets, less of everything.")] = False,
    report_only: Annotated[bool, typer.Option(help="Draw figures and write tables from the JSON alone.")] = False,
    showcase: Annotated[bool, typer.Option(help="Draw the README's first picture, and nothing else.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Run what is missing of the grid, then write figures, sheets and the page's tables."""
    console = Console()
    name, scale = ("quality-quick", QUICK) if quick else ("quality", FULL)
    chosen = methods or list(CONTESTANTS)
    try:
        unknown = set(chosen) - CONTESTANTS.keys()
        if unknown:
            raise UsageError(f"unknown method {min(unknown)!r}; there are {', '.join(CONTESTANTS)}")
        if showcase:
            draw_showcase(open_arena(model, scale), PICTURES / "dense-and-slim.png", removed=0.3)
            return
        shares = budgets or ([0.15, 0.41] if quick else list(BUDGETS))
        results = read_results(output / f"{name}.json", model, scale)
        todo = missing(results, cells(chosen, shares, range(1 if quick else seeds)))
        if todo and not report_only:
            if not REAL.is_file():
                console.print(HOW_TO_GET_REAL)
            arena = open_arena(model, scale)
            judge = Judge(arena)

            def tell(cell: dict[str, object]) -> None:
                console.print(
                    f"{cell['method']:>16} {cell['removed']:.0%} seed {cell['seed']}: relative MSE "
                    f"{cell['relative_mse']:.2e}, PSNR {cell['psnr']:.1f} dB, {cell['seconds']}",
                    highlight=False,
                )

            run_cells(results, todo, arena, judge, name=name, folder=output, pictures=WORK, after_cell=tell)
        if not quick:
            write_report(results, pictures=WORK, into=PICTURES, page=PAGES["quality"])
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(f"written to {output / f'{name}.json'}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
