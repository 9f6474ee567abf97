"""Does every format compute what torch does, dense, slim, and slim in int8? Exports and compares them all.

    python -m benchmarks.formats [--slim DIR]

A cell that is in the file already is not run again; delete the file to start anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from benchmarks.measure import RESULTS, machine, write_result
from benchmarks.readme_blocks import write_block
from benchmarks.readme_tables import PAGES
from passes.errors import ExportError, SlimDiffError, UsageError
from passes.plan.costs import program_params
from passes.program.program import Program
from slimdiff_fx.export.aoti import export_aoti
from slimdiff_fx.export.executorch import export_executorch
from slimdiff_fx.export.openvino import export_openvino
from slimdiff_fx.export.pt2 import export_pt2
from slimdiff_fx.export.tensorrt import export_tensorrt
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_pipeline
from slimdiff_fx.pipelines.load import LoadedPipeline, load_pipeline
from slimdiff_fx.quantize.calibration_data import QuantizationSettings, record_calibration, record_held_out
from slimdiff_fx.quantize.export_int8 import export_pt2e_int8
from slimdiff_fx.quantize.int8_report import MAX_ERROR, Int8Report
from slimdiff_fx.quantize.onnx_int8 import export_onnx_int8
from slimdiff_fx.quantize.openvino_int8 import export_openvino_int8
from slimdiff_fx.quantize.recorded_calls import flat_calls

NAME = "formats"
FORMATS = {
    "pt2": ("`torch.export`", "pt2"),
    "onnx": ("ONNX Runtime", "onnx"),
    "openvino": ("OpenVINO", "xml"),
    "aoti": ("AOTInductor", "pt2"),
    "executorch": ("ExecuTorch, XNNPACK", "pte"),
    "tensorrt": ("TensorRT", "onnx"),
}
MODELS = ("dense", "slim", "slim + int8")
_EXPORTERS = {
    "pt2": export_pt2,
    "onnx": export_onnx,
    "openvino": export_openvino,
    "aoti": export_aoti,
    "executorch": export_executorch,
}
SETTINGS = QuantizationSettings()
Cell = dict[str, Any]
Calls = list[list[Tensor]]


def measure_formats(
    dense: LoadedPipeline,
    slim: LoadedPipeline,
    *,
    formats: Sequence[str] = tuple(FORMATS),
    settings: QuantizationSettings = SETTINGS,
    output: Path = RESULTS,
) -> dict[str, Any]:
    """Run every cell that the file in `output` doesn't have, and write the file after each."""
    file = output / f"{NAME}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    captured = {"dense": capture_pipeline(dense.pipe), "slim": capture_pipeline(slim.pipe)}
    params = {name: program_params(each.program) for name, each in captured.items()}
    result = {"benchmark": NAME, "model": dense.name, "params": params, "machine": machine(), "cells": {}} | result
    if result["params"] != params:
        raise UsageError(f"{file} is of other models; delete it to start anew")
    data: tuple[Calls, Calls] | None = None
    for format in formats:
        for model in MODELS:
            key = f"{format}/{model}"
            if key in result["cells"]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"denoiser.{FORMATS[format][1]}"
                if model == "slim + int8":
                    data = data or _record(slim, captured["slim"], settings)
                    try:
                        cell = _quantized(captured["slim"].program, format, path, *data)
                    except ExportError as error:  # it costs too much: that is a result as well
                        cell = {"refused": str(error), "needs": None}
                else:
                    cell = _float(captured[model].program, format, path)
                cell["bytes"] = sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
            result["cells"][key] = cell
            print(key, json.dumps(cell), flush=True)
            write_result(NAME, result, output)
    return result


def _record(slim: LoadedPipeline, captured: CapturedDenoiser, settings: QuantizationSettings) -> tuple[Calls, Calls]:
    return (
        flat_calls(record_calibration(slim, captured, settings)),
        flat_calls(record_held_out(slim, captured, settings)),
    )


def _float(program: Program, format: str, path: Path) -> Cell:
    if format == "tensorrt":
        written = export_tensorrt(program, path)
        report, needs = written.engine or written.onnx, written.missing
    else:
        report, needs = _EXPORTERS[format](program, path), None
    return {"runtime": report.runtime, "largest": report.relative, "inputs": len(report.cases), "needs": needs}


def _quantized(program: Program, format: str, path: Path, calls: Calls, held_out: Calls) -> Cell:
    report: Int8Report
    needs = None
    if format == "openvino":
        report = export_openvino_int8(program, path, held_out)
    elif format in ("onnx", "tensorrt"):
        report = export_onnx_int8(program, path, held_out, calls=calls, symmetric=format == "tensorrt")
        needs = "a GPU with TensorRT" if format == "tensorrt" else None
    else:
        report = export_pt2e_int8(program, format, path, calls, held_out)
    return {
        "runtime": report.runtime,
        "mode": report.mode,
        "relative_mse": report.relative_mse,
        "inputs": report.calls,
        "needs": needs,
    }


def formats_table(result: dict[str, Any]) -> str:
    """Give what was measured, format by format."""
    cells = result["cells"]
    lines = [f"| `--format` | runtime | {' | '.join(MODELS)} |", "|---|---|---:|---:|---:|"]
    for format, (runtime, _) in FORMATS.items():
        row = [
            _shown(cells[f"{format}/{model}"]) if f"{format}/{model}" in cells else "not measured yet"
            for model in MODELS
        ]
        lines.append(f"| `{format}` | {runtime} | {' | '.join(row)} |")
    return "\n".join(lines)


def _shown(cell: Cell) -> str:
    if "refused" in cell:
        if "differs from the program" in cell["refused"]:
            return "refused: the runtime computes something else than the quantized program"
        return f"refused: the error is above {MAX_ERROR}"
    size = f"{cell['bytes'] / 1e6:.1f} MB"
    if "largest" in cell:
        text = f"{format(cell['largest'], '.1e') if cell['largest'] else 'equal'}, {size}"
    else:
        text = f"{cell['relative_mse']:.1e} ({cell['mode']}), {size}"
    return f"its ONNX: {text}; the engine needs a GPU with TensorRT" if cell["needs"] else text


def main(
    model: Annotated[str, typer.Argument(help="The dense pipeline.")] = "emoji",
    slim: Annotated[str, typer.Option(help="The slim pipeline, as `slimdiff-fx slim` saved it.")] = "slim-emoji",
    only: Annotated[list[str] | None, typer.Option(help=" | ".join(FORMATS))] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Export and compare every format, and write the page's table."""
    try:
        result = measure_formats(
            load_pipeline(model), load_pipeline(slim), formats=only or tuple(FORMATS), output=output
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    write_block(NAME, formats_table(result), PAGES[NAME])


if __name__ == "__main__":
    typer.run(main)
