"""How fast is the slim denoiser? Dense and slim in turn, in one run, on one backend.

    python -m benchmarks.latency [MODEL] --backend ort|eager|inductor|aoti|openvino|ort-cuda|tensorrt
    python -m benchmarks.latency emoji slim-emoji --backend ort

MODEL is a pipeline folder, a hub id, `emoji`, or a published configuration with random weights: speed depends on shapes
alone. Slim models are made of it in the run: some that lose the same share of each site, one that is planned for a
latency. Other folders that are named run beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import ModelMixin
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, machine, write_result
from benchmarks.race import Entrant, Race
from benchmarks.scale import CONFIGS, DTYPES, build
from benchmarks.shaped_plan import even_plan, plan_for_cost
from passes.errors import SlimDiffError, UsageError
from passes.plan.costs import params_table
from passes.plan.policies import Keep
from passes.plan.slim_plan import SlimPlan
from passes.program.inputs import example_tensors, input_nodes
from passes.program.program import Program
from passes.solve.error_curves import sizes_offered
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.refine import Refined, plan_timer, refine
from slimdiff_fx.latency.table import measured_costs
from slimdiff_fx.latency.target import Target, make_target
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_model
from slimdiff_fx.saved.folder import load_plan
from slimdiff_fx.timing.bench import Effort
from slimdiff_fx.timing.runtimes import BACKENDS, Contestant, require

EAGER = ("eager", "inductor")  # run the module
SINGLE = ("ort", "openvino")  # no kernels for bfloat16 on every CPU: published configurations are built in float32
# Shares of the weights of attention and feed-forwards; the last is 100M of SD 1.5's, as SlimDiff removes.
REMOVED = (0.15, 0.30, 0.41)
KEEP_LATENCY = 0.8  # 0.74 is 1.35 times as fast, what SlimDiff states for its 100M; `emoji` can't do that everywhere


def even_entrants(
    target: Target, captured: CapturedDenoiser, removed: Sequence[float], align: int | None
) -> list[Entrant]:
    """Name the slim models that lose a share of the sites' weights."""

    def by_share(share: float) -> Contestant:
        return target.whole("slim", even_plan(captured.program, captured.sites, share, align))

    return [Entrant(f"−{share:.0%} of the sites", lambda share=share: by_share(share)) for share in removed]


def planned_for_latency(
    policy: KeepLatency, captured: CapturedDenoiser, model: ModelMixin, effort: Effort, name: str
) -> Refined:
    """Plan by what sites cost on the policy's runtime, time the plan and correct it, as `slim` does.

    Raises:
        UsageError: no plan can meet the latency.
        SlimDiffError: the runtime lacks something.
    """
    program, sites = captured.program, captured.sites
    priced = measured_costs(policy, program, sites, narrow=True, model=model, effort=effort)
    if (least := least_latency(captured, priced)) > policy.fraction:
        raise UsageError(
            f"no plan has {policy.fraction:.0%} of the latency on {policy.backend}: {least:.1%} is left of {name} with "
            "every site at its cheapest; give another --keep-latency, or 1 to leave that plan out"
        )
    with plan_timer(policy, program, model, effort) as time_plan:
        return refine(priced, sites, lambda each: plan_for_cost(program, sites, each), time_plan)


def least_latency(captured: CapturedDenoiser, priced: Keep) -> float:
    """Give the share of the latency that is left when each site has its cheapest size."""
    sites, costs = captured.sites, priced.table
    cheapest = sum(min(costs.of(site, *size) for size in sizes_offered(site, True, priced.align)) for site in sites)
    return (costs.rest(sites) + cheapest) / costs.total


def measure_latency(
    name: str,
    model: ModelMixin,
    race: Race,
    *,
    sizes: dict[str, int | None],
    removed: Sequence[float] = REMOVED,
    keep_latency: float | None = None,
    plan_on: str | None = None,
    align: int | None = None,
    plan: SlimPlan | None = None,
    beside: Sequence[tuple[str, ModelMixin]] = (),
    cache: Path | None = None,
) -> dict[str, Any]:
    """Run the benchmark for one dense denoiser.

    Args:
        name: of the denoiser.
        model: the denoiser.
        race: how it is timed.
        sizes: batch, height, width, tokens; None for the model's own.
        removed: shares of the sites' weights, each a slim model.
        keep_latency: share of the latency, for one slim model more.
        plan_on: the runtime whose times that is planned by; the race's own if None.
        align: hold widths to multiples of this.
        plan: for one slim model more.
        beside: other denoisers, by name.
        cache: folder for the latencies of sites.

    Returns:
        the result as JSON values.

    Raises:
        SlimDiffError: the backend lacks something, or a model can't be captured, slimmed or exported.
    """
    record = {**machine(), "threads": race.threads}
    captured = capture_model(model, tokens=sizes.get("tokens"))
    # Others run the graph: an eager slim model beside it would only take memory.
    target = make_target(captured.program, model if race.backend in EAGER else None, sizes)
    entrants = even_entrants(target, captured, removed, align)
    planned = None
    if keep_latency is not None:
        backend = plan_on or race.backend
        policy = KeepLatency(keep_latency, backend, **sizes, threads=race.threads, cache=cache, align=align)
        effort = Effort(race.repeats, race.warmup, whole_seconds=race.min_seconds)
        refined = planned_for_latency(policy, captured, model, effort, name)
        entrants.append(Entrant(f"latency {keep_latency:g}", lambda: target.whole("slim", refined.plan)))
        planned = {"on": backend, "tries": [list(each) for each in refined.tries]}
    if plan is not None:
        entrants.append(Entrant("plan", lambda: target.whole("slim", plan)))
    for other, module in beside:
        entrants.append(Entrant(other, lambda module=module: _at(module, sizes)))
    if not entrants:
        raise UsageError("there is nothing to compare: give --removed, --keep-latency, --plan or another model")
    params = params_table(captured.program, captured.sites)
    rows = list(race.run(target.whole("dense"), entrants))
    return {
        "benchmark": "latency",
        "model": name,
        "backend": race.backend,
        "dtype": str(race.dtype or next(model.parameters()).dtype).removeprefix("torch."),
        "inputs": _input_shapes(target.fixed),
        "align": align,
        "clock": race.clock,
        "site_params": params.total - params.rest(captured.sites),
        "machine": record,
        "planned": planned,
        "models": rows,
    }


def _at(model: ModelMixin, sizes: dict[str, int | None]) -> Contestant:
    captured = capture_model(model, tokens=sizes.get("tokens"))
    return make_target(captured.program, model, sizes).whole("other")


def _input_shapes(program: Program) -> dict[str, list[int]]:
    return {
        node.name: list(tensor.shape)
        for node, tensor in zip(input_nodes(program), example_tensors(program), strict=True)
    }


def table_of(result: dict[str, Any]) -> Table:
    """Show a result."""
    shape = "×".join(map(str, next(iter(result["inputs"].values()))))
    threads = result["machine"]["threads"]
    table = Table(title=f"{result['model']}, {result['backend']}, {shape}, {threads} thread{'s' * (threads > 1)}")
    table.add_column("denoiser")
    for column in ("params", "GMACs", "ms", "± ms", "dense ms", "time ÷ dense", "MACs ÷ dense", "realized ÷ predicted"):
        table.add_column(column, justify="right")
    for row in result["models"]:
        ratios = [f"{row[key]:.3f}" for key in ("time_ratio", "mac_ratio", "realized")] if "realized" in row else []
        table.add_row(
            row["name"],
            f"{row['params'] / 1e6:.2f}M",
            f"{row['macs'] / 1e9:.3f}",
            f"{row['median_ms']:.2f}",
            f"{row['spread_ms']:.2f}",
            f"{row['dense_ms']:.2f}" if "dense_ms" in row else "",
            *ratios,
        )
    return table


def main(
    models: Annotated[
        list[str] | None, typer.Argument(help=f"Pipeline folders, hub ids, `emoji`; {' | '.join(CONFIGS)}.")
    ] = None,
    backend: Annotated[str, typer.Option(help=" | ".join(BACKENDS))] = "ort",
    removed: Annotated[list[float] | None, typer.Option(help="Share of the sites' weights; several times.")] = None,
    keep_latency: Annotated[float | None, typer.Option(help="Plan one for this share of the latency.")] = KEEP_LATENCY,
    plan_on: Annotated[
        str | None, typer.Option(help="Plan that one by this backend's times: AOTInductor runs Inductor's kernels.")
    ] = None,
    align: Annotated[int | None, typer.Option(help="Hold widths to multiples of this.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Make one by this slim_plan.json too.")] = None,
    batch: Annotated[int, typer.Option(help="Batch size; guidance makes 2 of 1.")] = 2,
    height: Annotated[int | None, typer.Option(help="Latent height; the model's own by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Latent width.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Text tokens; the pipeline's own by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns at least.")] = 20,
    warmup: Annotated[int, typer.Option(help="Turns not counted.")] = 2,
    min_seconds: Annotated[float, typer.Option(help="Time at least to spend on each model.")] = 5.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    fp16: Annotated[bool, typer.Option(help="Export to ONNX in float16.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for the latencies of sites.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Time dense and slim denoisers in turn; --removed 0 and --keep-latency 1 leave those plans out."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = models or ["emoji"]
    try:
        require(backend)
        torch.set_num_threads(threads)
        dense, own_tokens = load_denoiser(names[0], backend)
        result = measure_latency(
            Path(names[0]).name,
            dense,
            Race(backend, threads, repeats, warmup, min_seconds, torch.float16 if fp16 else None),
            sizes={"batch": batch, "height": height, "width": width, "tokens": tokens or own_tokens},
            removed=[share for share in removed or REMOVED if share],
            keep_latency=None if keep_latency == 1 else keep_latency,
            plan_on=plan_on,
            align=align,
            plan=None if plan is None else load_plan(plan),
            beside=[(Path(name).name, load_denoiser(name, backend)[0]) for name in names[1:]],
            cache=cache,
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(table_of(result))
    parts = [Path(names[0]).name, backend, *(["fp16"] if fp16 else []), *([f"align-{align}"] if align else [])]
    console.print(f"written to {write_result('-'.join(['latency', *parts]), result, output)}")


def load_denoiser(name: str, backend: str = "eager") -> tuple[ModelMixin, int | None]:
    """Load the denoiser of a pipeline folder, a hub id or `emoji`, or build one of `benchmarks.scale.CONFIGS`.

    Args:
        name: of it.
        backend: what is to run it.

    Returns:
        the denoiser, and how many tokens its pipeline's texts have, if there are texts.
    """
    from slimdiff_fx.pipelines.load import load_pipeline

    if name in CONFIGS:
        return build(CONFIGS[name], torch.float32 if backend in SINGLE else DTYPES[name], seed=0), 77
    pipeline = load_pipeline(name).pipe
    model = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if not isinstance(model, ModelMixin):
        raise UsageError(f"{name} has neither a unet nor a transformer")
    length = getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None)
    return model.eval(), length if isinstance(length, int) and length < 4096 else None


if __name__ == "__main__":
    typer.run(main)
