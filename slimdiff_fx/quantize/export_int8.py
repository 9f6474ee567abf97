"""Export a pipeline's denoiser in int8: which formats have which modes, and what each is calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from passes.errors import UsageError
from slimdiff_fx.captured import CapturedDenoiser
from slimdiff_fx.models import LoadedPipeline
from slimdiff_fx.quantize.calibration_data import QuantizationSettings, record_calibration, record_held_out
from slimdiff_fx.quantize.int8_report import Int8Report
from slimdiff_fx.quantize.recorded_calls import flat_calls

INT8_MODES: Mapping[str, tuple[str, ...]] = {"onnx": ("static", "dynamic"), "openvino": ("weights",)}


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
    modes = INT8_MODES.get(format)
    if modes is None:
        offered = " and ".join(INT8_MODES)
        raise UsageError(
            f"--int8 is of {offered}; {format} is quantized before it is exported, see docs/quantization.md"
        )
    if mode not in modes:
        raise UsageError(f"--int8 {mode} is not offered with --format {format}; there {_are(modes)}")


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
        format: one of `INT8_MODES`.
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
    from slimdiff_fx.export_onnx import OPSET
    from slimdiff_fx.quantize.onnx_int8 import export_onnx_int8

    calls = flat_calls(record_calibration(loaded, captured, settings)) if mode == "static" else []
    return export_onnx_int8(
        captured.program,
        file,
        held_out,
        mode=mode,
        calls=calls,
        opset=onnx.opset or OPSET,
        target=onnx.target or "generic",
    )


def _are(modes: tuple[str, ...]) -> str:
    return f"is {modes[0]}" if len(modes) == 1 else f"are {' and '.join(modes)}"
