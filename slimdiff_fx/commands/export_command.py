"""What `slimdiff-fx export` does, once its options are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from passes.errors import UsageError
from slimdiff_fx.calibration.ranks import refuse_ranks
from slimdiff_fx.commands.command_outputs import check_file_output, note_edited, took
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.export.formats import format_of
from slimdiff_fx.export.input_sizes import input_sizes, shapes_in_words
from slimdiff_fx.files.output_paths import follow
from slimdiff_fx.names import AUTO
from slimdiff_fx.option_checks import check_count, check_seed
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.inputs.prompts import read_prompts
from slimdiff_fx.pipelines.load import DTYPES, EMOJI, denoiser_in, load_pipeline, model_input
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.quantize.calibration_data import SAMPLES, QuantizationSettings, check_calibration
from slimdiff_fx.quantize.export_int8 import OnnxOptions, check_int8, export_int8


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
    residuals: Sequence[str] | None = None
    variant: str | None = None

    def check(self, format: str) -> None:
        """Refuse options that contradict each other or the format.

        Raises:
            UsageError: says which.
        """
        check_count("samples", self.samples)
        check_count("steps", self.steps)
        check_seed("seed", self.seed)
        takes = format_of(format).arguments
        if (self.opset, self.target) != (None, None) and not {"opset", "target"} <= set(takes):
            raise UsageError(f"--opset and --target are of ONNX; leave them out with --format {format}")
        if "dtype" not in takes and self.dtype not in (AUTO, "float32"):
            raise UsageError(f"--format {format} writes float32; leave --dtype out")
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

    def arguments(self, format: str) -> dict[str, Any]:
        """Give those of the format's own arguments that were given."""
        given = {"dtype": DTYPES.get(self.dtype), "opset": self.opset, "target": self.target}
        return {name: given[name] for name in format_of(format).arguments if given[name] is not None}

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
    form = format_of(format)
    early = out if out is not None else _default_file(model, format, options)
    if early is not None:
        _check_output(model, format, early, options, overwrite)
    calibration = options.calibration()
    start = time.perf_counter()
    listener = TerminalListener(console, ("load", "capture", "export"))
    with listener.stage("load"):
        own = options.dtype == AUTO and options.int8 is None and form.any_dtype
        loaded = load_pipeline(model, variant=options.variant, dtype=AUTO if own else "float32")
    note_edited(loaded.edited, listener)
    inside = loaded.folder if loaded.folder is not None and model != EMOJI else Path()
    file = inside / _default_name(denoiser_name(loaded.pipe), format, options) if out is None else out
    _check_output(model, format, file, options, overwrite)
    if options.int8 is not None:
        check_calibration(loaded, calibration)
    with listener.stage("capture"):
        captured = capture_pipeline(loaded.pipe, residuals=options.residuals or ())
    if options.int8 is not None:
        onnx = OnnxOptions(options.opset, options.target)
        with listener.stage("export"):
            int8 = export_int8(loaded, captured, format, file, options.int8, calibration, onnx)
        lines = int8.words()
        command = form.build_command(captured.program, file, int8=True)
        if command is not None:
            lines.append(f"compared on a CPU; to build the engine: {command}")
    else:
        with listener.stage("export"):
            lines = form.export(captured.program, file, **options.arguments(format)).words()
    if form.one_size:
        lines.append(f"it holds for these sizes: {shapes_in_words(captured.program)}")
    else:
        lines.append(f"sizes that it takes: {input_sizes(captured.program)}")
    if form.advice is not None:
        lines.append(form.advice)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"exported in {took(start)}: {file}", highlight=False, soft_wrap=True)


def _default_name(denoiser: str, format: str, options: ExportOptions) -> str:
    return f"{denoiser}{'' if options.int8 is None else '.int8'}.{format_of(format).ending}"


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
    check_file_output(file, format_of(format).kind, inputs, overwrite=overwrite)
