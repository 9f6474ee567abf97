"""Does a budget of latency give that latency? Predicted against measured, and against a budget of parameters.

    python -m benchmarks.latency_budget emoji --backend ort|eager|inductor|aoti|openvino|ort-cuda|tensorrt
    python -m benchmarks.latency_budget sd15 --backend ort --target 0.8

Plans are made as `slim` makes them: timed, corrected and made again until expected and measured agree, then timed once
more. Of a pipeline, each target's plan stands beside the plan that removes most parameters at the same expected error.
Of a published configuration with random weights only shapes matter: what its sizes would cost in error is made up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, machine, write_result
from benchmarks.scale import CONFIGS, DTYPES, build
from benchmarks.shaped_plan import plan_for_cost
from passes.analyze.planner import Planner
from passes.analyze.site_errors import ignore_progress
from passes.errors import SlimDiffError
from passes.plan.costs import params_table
from passes.plan.policies import Keep, MaxError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.refine import Refined, plan_timer, refine
from slimdiff_fx.latency.table import measured_costs
from slimdiff_fx.latency.target import guided_batch
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_model, capture_pipeline
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.timing.bench import Effort
from slimdiff_fx.timing.runtimes import BACKENDS, require

TARGETS = (0.9, 0.8, 0.7)
TimePlan = Callable[[SlimPlan], float]


@dataclass(frozen=True)
class Row:
    """A plan that is to be timed.

    Attributes:
        target: share of the latency that was asked for.
        made_by: "latency" or "params".
        refined: the plan, and the costs that it expects.
        error: expected relative squared error of the prediction; None where there is none to expect.
    """

    target: float
    made_by: str
    refined: Refined
    error: float | None


def measure_budgets(
    captured: CapturedDenoiser, policy: KeepLatency, rows: Iterable[Row], time_plan: TimePlan
) -> list[dict[str, Any]]:
    """Time the dense denoiser and each plan's in turn, and put what was expected beside it.

    Args:
        captured: the dense denoiser.
        policy: what is timed.
        rows: the plans.
        time_plan: gives a plan's latency as a share of the dense one; see `plan_timer`.
    """
    params, found = params_table(captured.program, captured.sites), []
    for row in rows:
        plan, costs = row.refined.plan, row.refined.priced.table
        expected = costs.kept(captured.sites, plan.sites) / costs.total
        measured = time_plan(plan)
        found.append(
            {
                "target": row.target,
                "made_by": row.made_by,
                "tries": [list(each) for each in row.refined.tries],
                "expected": round(expected, 4),
                "measured": round(measured, 4),
                "off": round(expected / measured - 1, 4),
                "error": row.error,
                "params_kept": round(params.kept(captured.sites, plan.sites) / params.total, 4),
            }
        )
    return found


def plan_pipeline(
    planner: Planner, captured: CapturedDenoiser, priced: Keep, targets: Sequence[float], time_plan: TimePlan
) -> Iterator[Row]:
    """Plan each target, and what removes most parameters at the same expected error."""
    for fraction in targets:
        policy = replace(priced, fraction=fraction)
        refined = refine(policy, captured.sites, lambda each: planner.within_cost(each, {}, ignore_progress), time_plan)
        error = float(refined.plan.predicted["relative_mse"])
        yield Row(fraction, "latency", refined, error)
        by_params = planner.within_error(MaxError(error, priced.align), {}, ignore_progress)
        yield Row(
            fraction, "params", replace(refined, plan=by_params, tries=()), float(by_params.predicted["relative_mse"])
        )


def plan_shapes(
    captured: CapturedDenoiser, priced: Keep, targets: Sequence[float], time_plan: TimePlan
) -> Iterator[Row]:
    """Plan each target with made-up errors."""
    for fraction in targets:
        policy = replace(priced, fraction=fraction)
        refined = refine(
            policy, captured.sites, lambda each: plan_for_cost(captured.program, captured.sites, each), time_plan
        )
        yield Row(fraction, "latency", refined, None)


def measure(name: str, policy: KeepLatency, targets: Sequence[float], samples: int, effort: Effort) -> dict[str, Any]:
    """Run the benchmark for a pipeline, or for one of `benchmarks.scale.CONFIGS`.

    Args:
        name: of the pipeline or the configuration.
        policy: what is timed; its fraction doesn't matter.
        targets: shares of the latency.
        samples: prompts to calibrate a pipeline on.
        effort: how long things are timed.

    Raises:
        SlimDiffError: a stage failed.
    """
    require(policy.backend)
    record = machine()
    planner = None
    if name in CONFIGS:
        captured = capture_model(build(CONFIGS[name], DTYPES[name], seed=0))
    else:
        loaded = load_pipeline(name)
        captured = capture_pipeline(loaded.pipe)
        batch = policy.batch or guided_batch(loaded.pipe, loaded.sampling.guidance)
        policy = KeepLatency(**{**vars(policy), "batch": batch})
        chosen = gather_samples(loaded.pipe, prompts=None, images=None, samples=samples, seed=0, folder=loaded.folder)
        settings = CalibrationSettings(loaded.sampling.given(None, None), moments=True)
        statistics = observe_pipeline(loaded.pipe, captured, chosen, settings).statistics
        planner = Planner(captured.program, captured.sites, statistics)
    start = time.perf_counter()
    priced = measured_costs(policy, captured.program, captured.sites, narrow=True, model=captured.model, effort=effort)
    seconds = time.perf_counter() - start
    with plan_timer(policy, captured.program, captured.model, effort) as time_plan:
        if planner is None:
            rows = plan_shapes(captured, priced, targets, time_plan)
        else:
            rows = plan_pipeline(planner, captured, priced, targets, time_plan)
        plans = measure_budgets(captured, policy, rows, time_plan)
    return {
        "benchmark": "latency_budget",
        "model": name,
        "align": policy.align,
        "machine": {**record, "threads": policy.used_threads},
        "costs": {
            **priced.table.record,
            "dense_ms": priced.table.total / 1e6,
            "sites_share": round(1 - priced.table.rest(captured.sites) / priced.table.total, 4),
            "seconds": round(seconds, 1),
        },
        "samples": samples if planner is not None else None,
        "plans": plans,
    }


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['model']} on {result['costs']['backend']}, {result['machine']['threads']} threads")
    for column in ("target", "made by", "expected", "measured", "off", "expected error", "params kept"):
        table.add_column(column, justify="right")
    for row in result["plans"]:
        table.add_row(
            f"{row['target']:g}",
            row["made_by"],
            f"{row['expected']:.3f}",
            f"{row['measured']:.3f}",
            f"{row['off']:+.1%}",
            "–" if row["error"] is None else f"{row['error']:.1e}",
            f"{row['params_kept']:.1%}",
        )
    return table


def main(
    model: Annotated[str, typer.Argument(help=f"Pipeline folder, hub id, or {' | '.join(CONFIGS)}.")] = "emoji",
    backend: Annotated[str, typer.Option(help=" | ".join(BACKENDS))] = "ort",
    target: Annotated[list[float] | None, typer.Option(help="Share of the latency; several times. [.9 .8 .7]")] = None,
    align: Annotated[int | None, typer.Option(help="Hold widths to multiples of this.")] = None,
    samples: Annotated[int, typer.Option(help="Prompts to calibrate on.")] = 64,
    batch: Annotated[int | None, typer.Option(help="Batch; what the pipeline runs for a picture.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the latents.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    repeats: Annotated[int, typer.Option(help="Turns at least.")] = 7,
    whole_seconds: Annotated[float, typer.Option(help="Time that each denoiser is run.")] = 5.0,
    cache: Annotated[Path | None, typer.Option(help="Folder for measured latencies.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Plan by latency, and see whether it comes out."""
    console = Console()
    try:
        policy = KeepLatency(1.0, backend, batch, size, size, threads=threads, cache=cache, align=align)
        effort = Effort(repeats, warmup=min(2, repeats), whole_seconds=whole_seconds)
        torch.set_num_threads(threads)
        result = measure(model, policy, target or TARGETS, samples, effort)
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    console.print(_table(result))
    name = f"latency-budget-{backend}" if model == "emoji" else f"latency-budget-{Path(model).name}-{backend}"
    console.print(f"written to {write_result(name, result, output)}")


if __name__ == "__main__":
    typer.run(main)
