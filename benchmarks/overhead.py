"""What does watching cost? The instrumented program against the plain one, in turn, in one run.

python -m benchmarks.overhead [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.latency import load_denoiser
from benchmarks.measure import RESULTS, interleave, machine, paired_ratio, write_result
from passes.errors import SlimDiffError, UsageError
from passes.instrument import instrument
from passes.sites import find_sites
from slimdiff_fx.denoisers import capture_denoiser


def measure_overhead(
    model: torch.nn.Module,
    *,
    batch: int = 16,
    tokens: int | None = None,
    repeats: int = 20,
    warmup: int = 3,
    min_seconds: float = 5.0,
) -> dict[str, Any]:
    """Time a forward with observers against one without.

    Args:
        model: a denoiser.
        batch: of both; calibration runs in batches like this one.
        tokens: of the text, if there is one.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: time at least to spend on each.

    Returns:
        the result as JSON values; `overhead` is the median of the rounds' own ratios, less one, and
        `overhead_of_fastest` compares the fastest round of each, which a busy machine disturbs least.

    Raises:
        SlimDiffError: the model can't be captured, or has no sites.
    """
    record = machine()
    program = capture_denoiser(model, batch=batch, tokens=tokens)
    sites = find_sites(program)
    instrumented = instrument(program, sites)

    def plain() -> None:
        with torch.no_grad():
            program(*program.args, **program.kwargs)

    def watched() -> None:
        with torch.no_grad():
            instrumented(*program.args, **program.kwargs)

    timings = interleave(
        {"plain": plain, "instrumented": watched}, repeats=repeats, warmup=warmup, min_seconds=min_seconds
    )
    return {
        "benchmark": "overhead",
        "batch": batch,
        "sites": len(sites),
        "machine": record,
        **{name: timing.to_dict() for name, timing in timings.items()},
        "overhead_of_fastest": round(min(timings["instrumented"].seconds) / min(timings["plain"].seconds) - 1, 4),
        "overhead": round(paired_ratio(timings["instrumented"], timings["plain"]) - 1, 4),
    }


def main(
    model: Annotated[str, typer.Argument(help="Pipeline folder, hub id or `emoji`.")] = "emoji",
    batch: Annotated[int, typer.Option(help="Batch size.")] = 16,
    repeats: Annotated[int, typer.Option(help="Rounds at least.")] = 20,
    warmup: Annotated[int, typer.Option(help="Rounds not counted.")] = 3,
    min_seconds: Annotated[float, typer.Option(help="Time at least to spend on each.")] = 10.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Time instrumented against plain forwards in turn."""
    console = Console()
    try:
        if threads:
            torch.set_num_threads(threads)
        denoiser, tokens = load_denoiser(model)
        result = measure_overhead(
            denoiser, batch=batch, tokens=tokens, repeats=repeats, warmup=warmup, min_seconds=min_seconds
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    for name in ("plain", "instrumented"):
        timing = result[name]
        console.print(f"{name:>12}  {timing['median_ms']:.2f} ms ± {timing['spread_ms']:.2f}  ({timing['runs']} runs)")
    console.print(
        f"    overhead  {result['overhead']:+.1%} over {result['sites']} sites "
        f"({result['overhead_of_fastest']:+.1%} between the fastest runs)"
    )
    console.print(f"written to {write_result('overhead', result, output)}")


if __name__ == "__main__":
    typer.run(main)
