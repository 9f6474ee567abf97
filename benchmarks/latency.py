"""How fast is the slim denoiser? Dense and slim in turn, in one run, on one backend.

    python -m benchmarks.latency --backend ort|eager|inductor|ort-cuda|tensorrt [MODEL_OR_DIR ...]

With several models the first is the reference. With one, or none (`emoji`), a slim one is made of it in the run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, Timing, interleave, machine, paired_ratio, write_result
from benchmarks.uniform_plan import uniform_plan
from passes.costs import program_macs, program_params
from passes.errors import SlimDiffError, UsageError
from passes.plan import SlimPlan
from passes.program import Program
from passes.rewrite import rewrite
from passes.sites import find_sites
from slimdiff_fx.apply_plan import apply_plan
from slimdiff_fx.denoisers import capture_denoiser, describe
from slimdiff_fx.runtimes import BACKENDS, Contestant, prepare, require

Sizes = dict[str, int]


def measure_latency(
    models: list[tuple[str, torch.nn.Module]],
    *,
    backend: str,
    keep: float = 0.7,
    plan: SlimPlan | None = None,
    sizes: dict[str, int | None] | None = None,
    repeats: int = 20,
    warmup: int = 3,
    min_seconds: float = 5.0,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Time the models against each other.

    Args:
        models: (name, denoiser); the first is the reference. If it is alone, it is slimmed by `plan`, or, as only
            shapes matter here, by a random plan that keeps the share `keep` of every site's units.
        backend: see `slimdiff_fx.runtimes`.
        keep: see `models`.
        plan: see `models`.
        sizes: batch, height, width, tokens.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: time at least to spend on each.
        dtype: to export in, for ONNX Runtime.

    Returns:
        the whole result as JSON values: machine, settings, and for each contestant params, MACs, times and ratios.

    Raises:
        SlimDiffError: the backend lacks something, or a model can't be captured, slimmed or exported.
    """
    require(backend)
    record = machine()
    chosen: Sizes = {key: value for key, value in (sizes or {}).items() if value is not None}
    contestants = [_contestant(name, model, chosen) for name, model in models]
    if len(models) == 1:
        program = contestants[0].program
        plan = plan or uniform_plan(program, find_sites(program), keep)
        contestants.append(_slimmed(contestants[0], models[0][1], chosen, plan))
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        forwards = {one.name: prepare(backend, one, Path(folder), threads, dtype) for one in contestants}
        timings = interleave(forwards, repeats=repeats, warmup=warmup, min_seconds=min_seconds)
    shapes = {name: list(shape) for name, shape in _input_shapes(contestants[0].program).items()}
    return {
        "benchmark": "latency",
        "backend": backend,
        "dtype": str(dtype).removeprefix("torch.") if dtype else None,
        "inputs": shapes,
        "plan": dict(plan.policy) if plan and len(models) == 1 else None,
        "machine": record,
        "models": _rows(contestants, timings),
    }


def _contestant(name: str, model: torch.nn.Module, sizes: Sizes) -> Contestant:
    return Contestant(name, describe(model, **sizes).module, capture_denoiser(model, **sizes))


def _slimmed(dense: Contestant, model: torch.nn.Module, sizes: Sizes, plan: SlimPlan) -> Contestant:
    module = describe(apply_plan(model, plan), **sizes).module
    return Contestant(f"{dense.name}-slim", module, rewrite(dense.program, plan))


def _rows(contestants: list[Contestant], timings: dict[str, Timing]) -> list[dict[str, Any]]:
    reference = contestants[0]
    rows = []
    for one in contestants:
        params, macs = program_params(one.program), program_macs(one.program)
        rows.append(
            {
                "name": one.name,
                "params": params,
                "macs": macs,
                **timings[one.name].to_dict(),
                "time_ratio": round(paired_ratio(timings[one.name], timings[reference.name]), 4),
                "mac_ratio": round(macs / program_macs(reference.program), 4),
                "param_ratio": round(params / program_params(reference.program), 4),
            }
        )
    return rows


def _input_shapes(program: Program) -> dict[str, tuple[int, ...]]:
    from slimdiff_fx.parity import example_tensors, input_nodes

    return {
        node.name: tuple(tensor.shape)
        for node, tensor in zip(input_nodes(program), example_tensors(program), strict=True)
    }


def _table(result: dict[str, Any]) -> Table:
    shape = "×".join(map(str, next(iter(result["inputs"].values()))))
    table = Table(title=f"One forward on {result['backend']}, input {shape}")
    table.add_column("model")
    for column in ("params", "GMACs", "median ms", "± ms", "time ÷ dense", "MACs ÷ dense"):
        table.add_column(column, justify="right")
    for row in result["models"]:
        table.add_row(
            row["name"],
            f"{row['params'] / 1e6:.2f}M",
            f"{row['macs'] / 1e9:.3f}",
            f"{row['median_ms']:.2f}",
            f"{row['spread_ms']:.2f}",
            f"{row['time_ratio']:.3f}",
            f"{row['mac_ratio']:.3f}",
        )
    return table


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Pipeline folders, hub ids or `emoji`.")] = None,
    backend: Annotated[str, typer.Option(help=" | ".join(BACKENDS))] = "ort",
    keep: Annotated[float, typer.Option(help="Share of every site's units to keep in a slim model made here.")] = 0.7,
    plan: Annotated[Path | None, typer.Option(help="Make the slim model by this slim_plan.json instead.")] = None,
    batch: Annotated[int, typer.Option(help="Batch size; guidance makes 2 of 1.")] = 2,
    height: Annotated[int | None, typer.Option(help="Latent height; the model's own by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Latent width.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Text tokens; the pipeline's own by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds at least.")] = 20,
    warmup: Annotated[int, typer.Option(help="Rounds not counted.")] = 3,
    min_seconds: Annotated[float, typer.Option(help="Time at least to spend on each model.")] = 5.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    fp16: Annotated[bool, typer.Option(help="Export to ONNX in float16.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Time dense and slim denoisers in turn."""
    console = Console()
    try:
        require(backend)
        if threads:
            torch.set_num_threads(threads)
        names = models or ["emoji"]
        loaded = [load_denoiser(name) for name in names]
        result = measure_latency(
            [(_short(name, index), model) for index, (name, (model, _)) in enumerate(zip(names, loaded, strict=True))],
            backend=backend,
            keep=keep,
            plan=None if plan is None else SlimPlan.from_json(plan.read_text()),
            sizes={"batch": batch, "height": height, "width": width, "tokens": tokens or loaded[0][1]},
            repeats=repeats,
            warmup=warmup,
            min_seconds=min_seconds,
            dtype=torch.float16 if fp16 else None,
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(_table(result))
    path = write_result(f"latency-{backend}{'-fp16' if fp16 else ''}", result, output)
    console.print(f"written to {path}")


def load_denoiser(name: str) -> tuple[torch.nn.Module, int | None]:
    """Load the denoiser of a pipeline folder, a hub id or `emoji`.

    Returns:
        the denoiser, and how many tokens its pipeline's texts have, if there are texts.
    """
    from slimdiff_fx.models import load_pipeline

    pipeline = load_pipeline(name).pipe
    model = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{name} has neither a unet nor a transformer")
    length = getattr(getattr(pipeline, "tokenizer", None), "model_max_length", None)
    return model.eval(), length if isinstance(length, int) and length < 4096 else None


def _short(name: str, index: int) -> str:
    stem = Path(name).name or name
    return stem if index == 0 else f"{index}-{stem}"


if __name__ == "__main__":
    typer.run(main)
