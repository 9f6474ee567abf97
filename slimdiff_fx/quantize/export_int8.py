"""Export a pipeline's denoiser in int8: which formats have which modes, and what each is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from passes.errors import UsageError
from passes.program.inputs import call_flat, example_tensors
from passes.program.program import Program
from passes.program.shapes import specialize
from slimdiff_fx.export.formats import format_of
from slimdiff_fx.pipelines.captured import CapturedDenoiser
from slimdiff_fx.pipelines.load import LoadedPipeline
from slimdiff_fx.quantize.calibration_data import QuantizationSettings, record_calibration, record_held_out
from slimdiff_fx.quantize.int8_report import MAX_ERROR, Int8Report, measure_int8
from slimdiff_fx.quantize.recorded_calls import flat_calls

# Integer kernels round the other way where a value lies between two steps, and what follows differs by about as much as
# quantizing costs. This is to catch a runtime that computes something else; what it costs is measured in float.
KERNEL_TOLERANCE = 0.5


@dataclass(frozen=True)
class OnnxOptions:
    """What only ONNX files have.

    Attributes:
        opset: operator set; None for the default.
        target: "generic" or "onnxruntime"; None for the default.
    """

    opset: int | None = None
    target: str | None = None


def check_int8(format: str, mode: str) -> None:
    """Refuse a mode that a format doesn't have.

    Raises:
        UsageError: names those that it has.
    """
    modes = format_of(format).int8
    if mode not in modes:
        raise UsageError(f'`int8="{mode}"` is not offered with `format="{format}"`; {_there(modes)}')


def export_int8(
    loaded: LoadedPipeline,
    captured: CapturedDenoiser,
    format: str,
    file: Path,
    mode: str,
    settings: QuantizationSettings,
    onnx: OnnxOptions = OnnxOptions(),
) -> Int8Report:
    """Draw what is needed, quantize, export and compare.

    Args:
        loaded: the pipeline, dense or slim.
        captured: its denoiser.
        format: one of `slimdiff_fx.export.formats.FORMATS`.
        file: to write.
        mode: one of the format's.
        settings: what to calibrate on.
        onnx: options of ONNX files.

    Raises:
        UsageError: no such mode, or nothing to calibrate on.
        ExportError: it failed, or costs too much.
        CheckpointError: the file can't be written.
    """
    check_int8(format, mode)
    held_out = flat_calls(record_held_out(loaded, captured, settings))
    if format == "openvino":
        from slimdiff_fx.quantize.openvino_int8 import export_openvino_int8

        return export_openvino_int8(captured.program, file, held_out)
    calls = flat_calls(record_calibration(loaded, captured, settings)) if mode == "static" else []
    if format not in ("onnx", "tensorrt"):
        return export_pt2e_int8(captured.program, format, file, calls, held_out)
    from slimdiff_fx.export.to_onnx.export import OPSET
    from slimdiff_fx.quantize.onnx_int8 import export_onnx_int8

    return export_onnx_int8(
        captured.program,
        file,
        held_out,
        mode=mode,
        calls=calls,
        opset=onnx.opset or OPSET,
        target=onnx.target or "generic",
        symmetric=format == "tensorrt",
    )


def export_pt2e_int8(
    program: Program,
    format: str,
    file: Path,
    calls: Sequence[Sequence[Tensor]],
    held_out: Sequence[Sequence[Tensor]],
    *,
    max_error: float = MAX_ERROR,
) -> Int8Report:
    """Quantize by PT2E, measure what it costs, export, and compare the runtime with the quantized program.

    Args:
        program: dense or slim, float32.
        format: "pt2", "aoti" or "executorch".
        file: to write.
        calls: what to calibrate on, one tensor for each placeholder.
        held_out: what to compare on.
        max_error: largest relative squared error of the prediction on `held_out`.

    Raises:
        ExportError: it failed, costs too much, or the runtime computes something else.
        CheckpointError: the file can't be written.
    """
    from slimdiff_fx.quantize.pt2e import quantize_pt2e, xnnpack_quantizer

    if format == "executorch":  # holds for the example's sizes
        program = specialize(program)
        rows = int(example_tensors(program)[0].shape[0])
        calls, held_out = _in_rows(calls, rows), _in_rows(held_out, rows)
        quantized = quantize_pt2e(program, calls, xnnpack_quantizer())
    else:
        quantized = quantize_pt2e(program, calls)

    def run(tensors: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return call_flat(quantized, tensors)

    report = measure_int8(
        program, run, held_out, runtime="PT2E", mode="static", max_error=max_error, path=str(file), sizes=False
    )
    if format == "executorch":
        from slimdiff_fx.export.executorch import export_executorch

        parity = export_executorch(quantized, file, tolerance=KERNEL_TOLERANCE, inputs=held_out)
    elif format == "aoti":
        from slimdiff_fx.export.aoti import export_aoti

        # Without freezing the weights would be dequantized at each call.
        settings = {"freezing": True}
        parity = export_aoti(quantized, file, tolerance=KERNEL_TOLERANCE, inputs=held_out, settings=settings)
    else:
        from slimdiff_fx.export.pt2 import export_pt2

        parity = export_pt2(quantized, file)
    return replace(report, runtime=f"PT2E, {parity.runtime}")


def _in_rows(calls: Sequence[Sequence[Tensor]], rows: int) -> list[list[Tensor]]:
    """Split calls into ones of so many rows; guidance's two halves stay side by side, as far apart as they are."""
    parts = []
    for call in calls:
        stride = max(1, call[0].shape[0] // rows)
        parts += [[tensor[start::stride][:rows] for tensor in call] for start in range(stride)]
    return parts


def _there(modes: tuple[str, ...]) -> str:
    if not modes:
        return "there is none"
    return f"there is {modes[0]}" if len(modes) == 1 else f"there are {' and '.join(modes)}"
