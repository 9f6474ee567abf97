"""Does the analysis fit? Second moments and every closed form at published sizes, with random weights: time and memory.

python -m benchmarks.analysis sd15
python -m benchmarks.analysis sdxl --moments-folder FOLDER
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar
from unittest import mock

import torch
import typer
from rich.console import Console

from benchmarks.measure import RESULTS, Watch, machine, resident, write_result
from benchmarks.scale import CONFIGS, DTYPES, build
from passes.analyze.planner import Planner
from passes.analyze.sensitivity import Prober
from passes.calibrate.instrument import instrument
from passes.calibrate.moments import moment_bytes
from passes.calibrate.statistics import Statistics
from passes.errors import SlimDiffError, UsageError
from passes.plan.policies import KeepParams
from passes.program.fresh_inputs import fresh_inputs
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.solve.recipes import Recipe
from slimdiff_fx.calibration.disk_sums import sums_in
from slimdiff_fx.denoisers.families import capture_denoiser

T = TypeVar("T")


def measure_analysis(
    config: dict[str, Any],
    dtype: torch.dtype,
    *,
    side: int,
    calls: int = 4,
    keep: float = 0.9,
    moments_folder: Path | None = None,
    plan: bool = True,
) -> dict[str, Any]:
    """Take second moments of a UNet and plan from them.

    Args:
        config: of the UNet2DConditionModel; its weights are random.
        dtype: of the weights.
        side: of the latents that it is run on; sites are as wide at any.
        calls: of the denoiser, for the moments; their sums are as large after any number.
        keep: share of the parameters to keep.
        moments_folder: keep the moments in files there.
        plan: go on to the plan.

    Returns:
        the result as JSON values; memory is the peak of resident bytes, mapped files included.
    """
    record = machine()
    model = build(config, dtype, 0)
    loaded = resident()
    stages: dict[str, Watch] = {}

    def run(name: str, call: Callable[[], T]) -> T:
        with Watch() as stages[name]:
            return call()

    program = run("capture", lambda: capture_denoiser(model, height=side, width=side))
    sites = find_sites(program)
    statistics = run("observe", lambda: _observe(program, calls, moments_folder))
    result: dict[str, Any] = {}
    if plan:
        # forwards are counted apart: their time is that of the denoiser on the probes, whatever those are
        measure, spent = Prober.relative_mse, []

        def timed(prober: Prober, changes: Any) -> float:
            start = time.perf_counter()
            found = measure(prober, changes)
            spent.append(time.perf_counter() - start)
            return found

        with mock.patch.object(Prober, "relative_mse", timed):
            planner = Planner(program, sites, statistics, Recipe())
            made = run("plan", lambda: planner.within_cost(KeepParams(keep), {}, lambda done, total: None))
        result = {
            "sensitivity_forwards": len(spent),
            "sensitivity_seconds": round(sum(spent), 1),
            "closed_form_seconds": round(stages["plan"].seconds - sum(spent), 1),
            "updates": len(made.updates),
        }
    return {
        "benchmark": "analysis",
        "machine": record,
        "dtype": str(dtype).removeprefix("torch."),
        "side": side,
        "attentions": sum(site.kind == "attention" for site in sites),
        "feed_forwards": sum(site.kind == "feed_forward" for site in sites),
        "widest": max(site.width for site in sites),
        "moments_gb": round(moment_bytes(sites) / 1e9, 2),
        "moments_on_disk": moments_folder is not None,
        "loaded_gb": round(loaded / 1e9, 2),
        "stages": {
            name: {"seconds": round(watch.seconds, 1), "peak_gb": round(watch.peak / 1e9, 2)}
            for name, watch in stages.items()
        },
        **result,
    }


def _observe(program: Program, calls: int, folder: Path | None) -> Statistics:
    storage = None if folder is None else sums_in(folder)
    watched = instrument(program, find_sites(program), moments=True, storage=storage)
    with torch.no_grad():
        for seed in range(calls):
            args, kwargs = fresh_inputs(program, seed)[-1]
            watched(*args, **kwargs)
    return watched.statistics(copy=False)


def main(
    config: Annotated[str, typer.Argument(help=" | ".join(CONFIGS))] = "sd15",
    side: Annotated[int, typer.Option(help="Side of the latents.")] = 16,
    calls: Annotated[int, typer.Option(help="Calls of the denoiser.")] = 4,
    moments_folder: Annotated[Path | None, typer.Option(help="Keep second moments in files there.")] = None,
    plan: Annotated[bool, typer.Option(help="Go on to the plan.")] = True,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Analyze a published configuration."""
    console = Console()
    try:
        if config not in CONFIGS:
            raise UsageError(f"no configuration {config!r}; choose one of {', '.join(CONFIGS)}")
        result = measure_analysis(
            CONFIGS[config], DTYPES[config], side=side, calls=calls, moments_folder=moments_folder, plan=plan
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(result)
    console.print(f"written to {write_result(f'analysis-{config}', result, output)}")


if __name__ == "__main__":
    typer.run(main)
