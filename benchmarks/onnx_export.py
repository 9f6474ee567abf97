"""What does an ONNX export look like, what does it cost to make, and how fast does it run? Form by form.

    python -m benchmarks.onnx_export emoji
    python -m benchmarks.onnx_export sd15 --forms torch,generic,onnxruntime --repeats 2

Each form is exported by a process of its own, so that its peak memory is its own; then all run in turn in one process.
"""

from __future__ import annotations

import collections
import functools
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import onnx
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.latency import load_denoiser
from benchmarks.measure import RESULTS, Watch, interleave, machine, paired_ratio, resident, write_result
from benchmarks.scale import CONFIGS, build
from benchmarks.uniform_plan import uniform_plan
from passes.errors import SlimDiffError, UsageError
from passes.program.inputs import example_tensors
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from slimdiff_fx.denoisers.families import capture_denoiser, describe
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import onnx_runner, quiet_onnxruntime
from slimdiff_fx.timing.bench import clock_of
from slimdiff_fx.timing.interleave import CLOCKS

Export = Callable[[torch.nn.Module, Program, Path], None]
# What a runtime has one kernel for, or what a graph has too much of.
COUNTED = (
    "Attention",
    "MultiHeadAttention",
    "Softmax",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "SkipLayerNormalization",
    "Gelu",
    "QuickGelu",
    "FusedMatMul",
    "Reshape",
    "Transpose",
    "Shape",
)


def _form(opset: int, target: Any, keep: float = 1.0) -> Export:
    def export(model: torch.nn.Module, program: Program, path: Path) -> None:
        slim = program if keep == 1 else rewrite(program, uniform_plan(program, find_sites(program), keep))
        export_onnx(slim, path, opset=opset, target=target)

    return export


def _plain(model: torch.nn.Module, program: Program, path: Path) -> None:
    """Export as anyone would without this project: the eager model, at fixed sizes, nothing compared."""
    inputs = describe(model, batch=2, tokens=_tokens(program))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(inputs.module, inputs.args, str(path), kwargs=dict(inputs.kwargs), dynamo=True, verbose=False)


def _tokens(program: Program) -> int | None:
    texts = [tensor for tensor in example_tensors(program) if tensor.dim() == 3]
    return texts[0].shape[1] if texts else None


FORMS: Mapping[str, Export] = {
    "torch": _plain,
    "generic": _form(20, "generic"),
    "generic-23": _form(23, "generic"),
    "onnxruntime": _form(20, "onnxruntime"),
    "slim-generic": _form(20, "generic", 0.7),
    "slim-onnxruntime": _form(20, "onnxruntime", 0.7),
}


def load(name: str) -> tuple[torch.nn.Module, int | None]:
    """Load `emoji`, a folder or a hub id, or build a published configuration with random weights."""
    return (build(CONFIGS[name], torch.float32, 0), 77) if name in CONFIGS else load_denoiser(name)


def export_alone(name: str, form: str, path: Path) -> dict[str, Any]:
    """Export in one form and watch it; meant for a process of its own.

    Returns:
        seconds, processor seconds and peak memory over the loaded model and captured program, parity included except
        in the form "torch", which has none.
    """
    model, tokens = load(name)
    program = capture_denoiser(model, tokens=tokens)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    before = resident()
    with Watch() as watch:
        FORMS[form](model, program, path)
    return {
        "seconds": round(watch.seconds, 1),
        "cpu_seconds": round(watch.cpu_seconds, 1),
        "peak_over_loaded_gb": round((watch.peak - before) / 1e9, 3),
        "peak_over_loaded_ratio": round((watch.peak - before) / weights, 3),
        "file_gb": round(sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e9, 3),
    }


def count(path: Path, threads: int) -> dict[str, Any]:
    """Count nodes as written, and as ONNX Runtime has fused them for its CPU."""
    import onnxruntime

    written = _nodes(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    # Big weights beside the file: protobuf holds 2 GiB.
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", path.with_suffix(".optimized.data").name
    )
    # Beyond the extended level convolutions are laid out for this very processor, which adds nodes of its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimized = _nodes(path.with_suffix(".optimized.onnx"))
    for file in path.parent.glob(f"{path.stem}.optimized*"):
        file.unlink()
    return {"written": _summary(written), "optimized": _summary(optimized)}


def _nodes(path: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def _summary(nodes: collections.Counter[str]) -> dict[str, int]:
    return {"nodes": nodes.total(), **{op: nodes[op] for op in COUNTED if nodes[op]}}


def measure_exports(name: str, forms: list[str], *, repeats: int, warmup: int, folder: Path) -> dict[str, Any]:
    """Export in every form, count, and time one forward of each in turn.

    Raises:
        UsageError: a form isn't known.
        ExportError: an export failed.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise UsageError(f"no form {unknown[0]!r}; choose of {', '.join(FORMS)}")
    quiet_onnxruntime()
    record, rows, runners = machine(), {}, {}
    for form in forms:
        path = folder / f"{form}.onnx"
        command = [sys.executable, "-m", "benchmarks.onnx_export", name, "--alone", form, "--output", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            rows[form] = {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
            continue
        rows[form] = json.loads((folder / f"{form}.json").read_text()) | count(path, torch.get_num_threads())
        runners[form] = onnx_runner(path, threads=torch.get_num_threads(), spinning=True)[0]
    model, tokens = load(name)
    inputs = example_tensors(capture_denoiser(model, tokens=tokens))
    del model
    forwards = {form: functools.partial(run, inputs) for form, run in runners.items()}
    clock = clock_of("ort", torch.get_num_threads())
    timings = interleave(forwards, repeats=repeats, warmup=warmup, clock=CLOCKS[clock]) if forwards else {}
    for form, timing in timings.items():
        rows[form] |= {**timing.to_dict(), "time_ratio": round(paired_ratio(timing, next(iter(timings.values()))), 4)}
    shapes = [list(tensor.shape) for tensor in inputs]
    return {"benchmark": "onnx_export", "model": name, "inputs": shapes, "machine": record, "forms": rows}


def _table(result: Mapping[str, Any]) -> Table:
    table = Table(title=f"ONNX exports of {result['model']}, ONNX Runtime on a CPU")
    table.add_column("form")
    for column in ("nodes", "fused", "export s", "CPU s", "peak GB", "× weights", "median ms", "÷ first"):
        table.add_column(column, justify="right")
    for form, row in result["forms"].items():
        if "failed" in row:
            table.add_row(form, row["failed"])
            continue
        table.add_row(
            form,
            str(row["written"]["nodes"]),
            str(row["optimized"]["nodes"]),
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['peak_over_loaded_gb']:.2f}",
            f"{row['peak_over_loaded_ratio']:.2f}",
            f"{row['median_ms']:.1f}",
            f"{row['time_ratio']:.3f}",
        )
    return table


def main(
    name: Annotated[str, typer.Argument(help=f"emoji | {' | '.join(CONFIGS)} | folder")] = "emoji",
    forms: Annotated[str, typer.Option(help="Comma-separated; of " + ", ".join(FORMS))] = ",".join(FORMS),
    repeats: Annotated[int, typer.Option(help="Rounds at least.")] = 50,
    warmup: Annotated[int, typer.Option(help="Rounds not counted.")] = 1,
    alone: Annotated[str | None, typer.Option(help="Export this form into the output folder and stop.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Export in several forms; count, watch and time them."""
    console = Console()
    try:
        if alone is not None:
            row = export_alone(name, alone, output / f"{alone}.onnx")
            (output / f"{alone}.json").write_text(json.dumps(row))
            return
        with tempfile.TemporaryDirectory() as folder:
            chosen = forms.split(",")
            result = measure_exports(name, chosen, repeats=repeats, warmup=warmup, folder=Path(folder))
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    console.print(_table(result))
    console.print(f"written to {write_result(f'onnx-export-{Path(name).name}', result, output)}")


if __name__ == "__main__":
    typer.run(main)
