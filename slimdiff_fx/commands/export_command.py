"""What `slimdiff-fx export` does, once its options are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from passes.errors import UsageError
from passes.program.program import Program
from slimdiff_fx.calibration.ranks import refuse_ranks
from slimdiff_fx.commands.command_outputs import check_file_output, note_edited, took
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.export.input_sizes import input_sizes
from slimdiff_fx.export.parity import ParityReport
from slimdiff_fx.files.output_paths import follow
from slimdiff_fx.files.own_files import EXPORTS
from slimdiff_fx.option_checks import check_count, check_seed
from slimdiff_fx.pipelines.auto_choice import AUTO
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.inputs.prompts import read_prompts
from slimdiff_fx.pipelines.load import DTYPES, EMOJI, denoiser_in, load_pipeline, model_input
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.quantize.calibration_data import SAMPLES, QuantizationSettings, check_calibration
from slimdiff_fx.quantize.export_int8 import OnnxOptions, check_int8, export_int8
from slimdiff_fx.quantize.int8_report import Int8Report

# These take a program in bfloat16 as it is; the others begin with float32.
_ANY_DTYPE = ("pt2", "aoti")

if TYPE_CHECKING:
    from slimdiff_fx.export.tensorrt import TensorRTReport

# What a file of each format is called by default, after the denoiser's name.
_ENDINGS = {
    "onnx": "onnx",
    "pt2": "pt2",
    "aoti": "aoti.pt2",
    "openvino": "xml",
    "executorch": "pte",
    "tensorrt": "tensorrt.onnx",
}


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export, as the user gave them; None where nothing was given.

    Attributes:
        dtype: precision of the exported weights; "auto" is the checkpoint's own where the format has it, else float32.
        opset: ONNX operator set.
        target: ONNX for any runtime, or with operators only ONNX Runtime has.
        int8: how to quantize, see `slimdiff_fx.quantize.export_int8`.
        prompts: file of prompts to calibrate int8 on.
        samples: how many of them.
        steps: denoising steps of a sample.
        seed: of the choice and of the noise.
        residuals: who adds to the UNet's features: see `slimdiff_fx.denoisers.residuals`.
        variant: of the weight files to load.
    """

    dtype: str = AUTO
    opset: int | None = None
    target: str | None = None
    int8: str | None = None
    prompts: Path | None = None
    samples: int | None = None
    steps: int | None = None
    seed: int = 0
    residuals: Sequence[str] = ()
    variant: str | None = None

    def check(self, format: str) -> None:
        """Refuse options that contradict each other or the format.

        Raises:
            UsageError: says which.
        """
        check_count("samples", self.samples)
        check_count("steps", self.steps)
        check_seed("seed", self.seed)
        if format != "onnx" and (self.opset is not None or self.target is not None):
            raise UsageError(f"--opset and --target are of ONNX; leave them out with --format {format}")
        if format == "executorch" and self.dtype not in (AUTO, "float32"):
            raise UsageError("--format executorch writes float32; leave --dtype out")
        if self.int8 is not None:
            if self.residuals:
                raise UsageError(
                    "--int8 is calibrated on plain sampling, which gives no residuals; leave --residuals out"
                )
            check_int8(format, self.int8)
            if self.dtype not in (AUTO, "float32"):
                raise UsageError(f"--int8 quantizes float32 weights; leave --dtype {self.dtype} out")
        elif (self.prompts, self.samples, self.steps) != (None, None, None):
            raise UsageError("--prompts, --samples and --steps say what int8 is calibrated on; give --int8 with them")

    def calibration(self) -> QuantizationSettings:
        """Give what int8 is calibrated on."""
        prompts = None if self.prompts is None else read_prompts(self.prompts)
        samples = SAMPLES if self.samples is None else self.samples
        return QuantizationSettings(prompts, None, samples, self.steps, self.seed)


def export_command(
    model: str, format: str, out: Path | None, options: ExportOptions, overwrite: bool, console: Console
) -> None:
    """Export the denoiser and print the parity that was measured."""
    refuse_ranks("export")
    options.check(format)
    early = out if out is not None else _default_file(model, format, options)
    if early is not None:
        _check_output(model, format, early, options, overwrite)
    calibration = options.calibration()
    start = time.perf_counter()
    listener = TerminalListener(console, ("load", "capture", "export"))
    with listener.stage("load"):
        own = options.dtype == AUTO and options.int8 is None and format in _ANY_DTYPE
        loaded = load_pipeline(model, variant=options.variant, dtype=AUTO if own else "float32")
    note_edited(loaded.edited, listener)
    inside = loaded.folder if loaded.folder is not None and model != EMOJI else Path()
    file = inside / _default_name(denoiser_name(loaded.pipe), format, options) if out is None else out
    _check_output(model, format, file, options, overwrite)
    if options.int8 is not None:
        check_calibration(loaded, calibration)
    with listener.stage("capture"):
        captured = capture_pipeline(loaded.pipe, residuals=options.residuals)
    if options.int8 is not None:
        onnx = OnnxOptions(options.opset, options.target)
        with listener.stage("export"):
            int8 = export_int8(loaded, captured, format, file, options.int8, calibration, onnx)
        _tell_int8(int8, console)
        if format == "tensorrt":
            from slimdiff_fx.export.tensorrt import trtexec_command

            command = trtexec_command(captured.program, file, int8=True)
            console.print(f"compared on a CPU; to build the engine: {command}", highlight=False, soft_wrap=True)
    elif format == "tensorrt":
        from slimdiff_fx.export.tensorrt import export_tensorrt

        with listener.stage("export"):
            tensorrt = export_tensorrt(captured.program, file, dtype=DTYPES.get(options.dtype))
        _tell_tensorrt(tensorrt, console)
    else:
        with listener.stage("export"):
            parity = _export(captured.program, format, file, options)
        _tell(parity, console)
    if format == "executorch":
        from slimdiff_fx.export.executorch import sizes_of

        console.print(f"it holds for these sizes: {sizes_of(captured.program)}", highlight=False)
    else:
        sizes = input_sizes(captured.program)
        console.print(f"sizes that it takes: {sizes}", highlight=False, soft_wrap=True)
    if format == "aoti":
        console.print(
            "call it with contiguous tensors: it reads an expanded timestep wrongly, with no error unless "
            "AOTI_RUNTIME_CHECK_INPUTS=1 is set",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"exported in {took(start)}: {file}", highlight=False, soft_wrap=True)


def _default_name(denoiser: str, format: str, options: ExportOptions) -> str:
    return f"{denoiser}{'' if options.int8 is None else '.int8'}.{_ENDINGS[format]}"


def _default_file(model: str, format: str, options: ExportOptions) -> Path | None:
    """Give where an export goes by default, before the pipeline is loaded; None where that isn't known yet."""
    folder = model_input(model)
    denoiser = None if folder is None else denoiser_in(folder)
    if folder is None or denoiser is None:
        return None
    return (Path() if model == EMOJI else folder) / _default_name(denoiser, format, options)


def _check_output(model: str, format: str, file: Path, options: ExportOptions, overwrite: bool) -> None:
    """Refuse an output that can't be written or is read. Exports may lie beside the pipeline's model_index.json."""
    folder = model_input(model)
    in_its_place = folder is not None and model != EMOJI and follow(file).parent == follow(folder)
    inputs = {"MODEL": None if in_its_place else folder, "--prompts": options.prompts}
    check_file_output(file, EXPORTS[format], inputs, overwrite=overwrite)


def _export(program: Program, format: str, file: Path, options: ExportOptions) -> ParityReport:
    dtype = DTYPES.get(options.dtype)
    if format == "onnx":
        from slimdiff_fx.export.to_onnx.export import OPSET, export_onnx

        return export_onnx(program, file, dtype=dtype, opset=options.opset or OPSET, target=options.target or "generic")
    if format == "aoti":
        from slimdiff_fx.export.aoti import export_aoti

        return export_aoti(program, file, dtype=dtype)
    if format == "openvino":
        from slimdiff_fx.export.openvino import export_openvino

        return export_openvino(program, file, dtype=dtype)
    if format == "executorch":
        from slimdiff_fx.export.executorch import export_executorch

        return export_executorch(program, file)
    from slimdiff_fx.export.pt2 import export_pt2

    return export_pt2(program, file, dtype=dtype)


def _tell_tensorrt(report: TensorRTReport, console: Console) -> None:
    _tell(report.onnx, console)
    if report.engine is not None:
        _tell(report.engine, console)
    else:
        console.print(f"the engine was not built here: {report.missing}", highlight=False, soft_wrap=True)
    console.print(f"to build it: {report.command}", highlight=False, soft_wrap=True)


def _tell(report: ParityReport, console: Console) -> None:
    console.print(
        f"{report.runtime} equals torch to {report.relative:.1e} (at most {report.tolerance:.0e} allowed) "
        f"on {len(report.cases)} inputs that were not traced",
        highlight=False,
    )


def _tell_int8(report: Int8Report, console: Console) -> None:
    console.print(
        f"{report.runtime}, int8 {report.mode}: relative squared error of the prediction {report.relative_mse:.1e} "
        f"(at most {report.max_error:.0e} allowed) on {report.calls} denoiser calls that were not calibrated on",
        highlight=False,
    )
