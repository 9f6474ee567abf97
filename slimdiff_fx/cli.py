"""The command line: `slimdiff-fx slim|inspect|calibrate|plan|apply|export|report`."""

from __future__ import annotations

import functools
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from passes.errors import (
    BudgetError,
    CheckpointError,
    PlanError,
    ResumeError,
    SilentRankError,
    SlimDiffError,
    UsageError,
)
from slimdiff_fx import cli_options as opt
from slimdiff_fx.option_words import in_options
from slimdiff_fx.policy_options import LatencyOptions, choose_policy, is_by_score
from slimdiff_fx.quiet_logging import quiet_logging

app = typer.Typer(
    name="slimdiff-fx",
    help="Slim diffusion denoisers with no training, by what their activations carry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_Command = TypeVar("_Command", bound=Callable[..., None])
_INTERRUPTED = 130
# What another option, file or folder would mend; everything else went wrong on the way, and exits with 1.
_MENDED_BY_USAGE = (UsageError, BudgetError, PlanError, CheckpointError, ResumeError)


def main() -> None:
    """Run the command line."""
    # Threads that wait must not spin for long: beside another process they take the cores that they wait for. OpenMP
    # reads this once, when torch is imported, which nothing above does.
    if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE") == "PASSIVE":
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's: some microseconds, as operators follow one another
    app()


def _guarded(command: _Command) -> _Command:
    """Turn errors into one line on stderr and an exit code: 2 if usage mends it, else 1; a traceback with --debug."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        debug = bool(kwargs.get("debug"))
        try:
            with ExitStack() as quiet:
                if not debug:
                    quiet.enter_context(warnings.catch_warnings())
                    warnings.simplefilter("ignore")
                    quiet.enter_context(quiet_logging())  # torchao, for one, logs which kernels this machine can't run
                command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _complain(f"interrupted{error}")  # a calibration that left a checkpoint says so
            raise typer.Exit(_INTERRUPTED) from None
        except SilentRankError:
            raise typer.Exit(1) from None
        except SlimDiffError as error:
            if debug:
                raise
            _complain(str(error))
            raise typer.Exit(2 if isinstance(error, _MENDED_BY_USAGE) else 1) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if debug:
                raise
            first = (str(error).splitlines() or [""])[0]
            _complain(f"unexpected {type(error).__name__}: {first}; run again with --debug and report what it shows")
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


def _complain(message: str) -> None:
    # Not through rich: it would wrap the line and read brackets as markup.
    print(f"error: {in_options(' '.join(message.split()))}", file=sys.stderr)


def _console() -> Console:
    # A path that isn't UTF-8, or a terminal that isn't, must not end hours of work when they are told of.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(width=None if sys.stdout.isatty() else 128)


@app.command()
@_guarded
def slim(
    model: opt.Model,
    out: opt.OutFolder,
    prompts: opt.Prompts = None,
    images: opt.Images = None,
    calibrate_on: opt.CalibrateOnOption = None,
    samples: opt.Samples = 500,
    steps: opt.Steps = None,
    observe_steps: opt.ObserveSteps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    method: opt.MethodOption = None,
    tau: opt.Tau = None,
    keep_params: opt.KeepParamsOption = None,
    keep_macs: opt.KeepMacsOption = None,
    keep_latency: opt.KeepLatencyOption = None,
    backend: opt.Backend = None,
    latency_batch: opt.LatencyBatch = None,
    latency_height: opt.LatencyHeight = None,
    latency_width: opt.LatencyWidth = None,
    latency_tokens: opt.LatencyTokens = None,
    latency_threads: opt.LatencyThreads = None,
    latency_cache: opt.LatencyCache = None,
    max_error: opt.MaxErrorOption = None,
    align: opt.AlignOption = None,
    uniform: opt.Uniform = False,
    criterion: opt.Criterion = None,
    normalize: opt.NormalizeOption = opt.Normalize.max,
    compensate: opt.CompensateOption = None,
    sequential: opt.Sequential = None,
    timestep_weights: opt.TimestepWeightsOption = opt.TimestepWeights.uniform,
    moments_folder: opt.MomentsFolder = None,
    batch: opt.Batch = 16,
    pictures: opt.Pictures = 8,
    sweep: opt.Sweep = 0,
    device: opt.Device = "cpu",
    dtype: opt.LoadDtype = opt.Dtype.float32,
    variant: opt.Variant = None,
    overwrite: opt.Overwrite = False,
    resume: opt.Resume = False,
    debug: opt.Debug = False,
) -> None:
    """Calibrate, analyze, rewrite, validate, save, report: the main job."""
    from slimdiff_fx import commands
    from slimdiff_fx.calibration_checkpoint import resumable

    with resumable(commands.slim_checkpoint(out), resume=resume):
        commands.slim_command(
            model,
            out,
            commands.CalibrationOptions(
                prompts,
                images,
                samples,
                steps,
                observe_steps,
                guidance,
                seed,
                batch,
                device,
                dtype.value,
                resume,
                timestep_weights=timestep_weights.value,
                moments_folder=moments_folder,
                calibrate_on=calibrate_on and calibrate_on.value,
                variant=variant,
            ),
            choose_policy(
                tau,
                keep_params,
                keep_macs,
                keep_latency,
                max_error,
                normalize,
                align,
                LatencyOptions(
                    backend,
                    latency_batch,
                    latency_height,
                    latency_width,
                    latency_tokens,
                    latency_threads,
                    latency_cache,
                ),
                uniform=uniform,
                by_score=is_by_score(method, criterion, compensate),
            ),
            method and method.value,
            criterion,
            compensate and compensate.value,
            sequential=sequential,
            pictures=pictures,
            sweep=sweep,
            overwrite=overwrite,
            console=_console(),
        )


@app.command()
@_guarded
def inspect(
    model: opt.Model,
    device: opt.Device = "cpu",
    dtype: opt.LoadDtype = opt.Dtype.float32,
    variant: opt.Variant = None,
    debug: opt.Debug = False,
) -> None:
    """List every site: heads, widths, params, MACs; and what is left whole, with the reason."""
    from slimdiff_fx import commands

    commands.inspect_command(model, device, dtype.value, _console(), variant)


@app.command()
@_guarded
def calibrate(
    model: opt.Model,
    out: opt.OutFile,
    prompts: opt.Prompts = None,
    images: opt.Images = None,
    calibrate_on: opt.CalibrateOnOption = None,
    samples: opt.Samples = 500,
    steps: opt.Steps = None,
    observe_steps: opt.ObserveSteps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    moments: opt.MomentsOption = True,
    attention_weights: opt.AttentionWeights = False,
    timestep_weights: opt.TimestepWeightsOption = opt.TimestepWeights.uniform,
    moments_folder: opt.MomentsFolder = None,
    batch: opt.Batch = 16,
    device: opt.Device = "cpu",
    dtype: opt.LoadDtype = opt.Dtype.float32,
    variant: opt.Variant = None,
    overwrite: opt.Overwrite = False,
    resume: opt.Resume = False,
    debug: opt.Debug = False,
) -> None:
    """Watch the denoiser run on a calibration set, and write the statistics (.safetensors)."""
    from slimdiff_fx import commands
    from slimdiff_fx.calibration_checkpoint import resumable

    with resumable(commands.calibrate_checkpoint(out), resume=resume):
        commands.calibrate_command(
            model,
            out,
            commands.CalibrationOptions(
                prompts,
                images,
                samples,
                steps,
                observe_steps,
                guidance,
                seed,
                batch,
                device,
                dtype.value,
                resume,
                moments,
                timestep_weights.value,
                moments_folder,
                calibrate_on and calibrate_on.value,
                attention_weights,
                variant=variant,
            ),
            overwrite=overwrite,
            console=_console(),
        )


@app.command()
@_guarded
def plan(
    model: opt.Model,
    statistics: Annotated[Path, typer.Option("--statistics", callback=opt.expanded, help="What `calibrate` wrote.")],
    out: opt.OutFile,
    method: opt.MethodOption = None,
    tau: opt.Tau = None,
    keep_params: opt.KeepParamsOption = None,
    keep_macs: opt.KeepMacsOption = None,
    keep_latency: opt.KeepLatencyOption = None,
    backend: opt.Backend = None,
    latency_batch: opt.LatencyBatch = None,
    latency_height: opt.LatencyHeight = None,
    latency_width: opt.LatencyWidth = None,
    latency_tokens: opt.LatencyTokens = None,
    latency_threads: opt.LatencyThreads = None,
    latency_cache: opt.LatencyCache = None,
    max_error: opt.MaxErrorOption = None,
    align: opt.AlignOption = None,
    uniform: opt.Uniform = False,
    criterion: opt.Criterion = None,
    normalize: opt.NormalizeOption = opt.Normalize.max,
    compensate: opt.CompensateOption = None,
    device: opt.Device = "cpu",
    dtype: opt.LoadDtype = opt.Dtype.float32,
    variant: opt.Variant = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Decide from statistics which units stay, and write the plan (.json)."""
    from slimdiff_fx import commands

    commands.plan_command(
        model,
        statistics,
        out,
        choose_policy(
            tau,
            keep_params,
            keep_macs,
            keep_latency,
            max_error,
            normalize,
            align,
            LatencyOptions(
                backend,
                latency_batch,
                latency_height,
                latency_width,
                latency_tokens,
                latency_threads,
                latency_cache,
            ),
            uniform=uniform,
            by_score=is_by_score(method, criterion, compensate),
        ),
        method and method.value,
        criterion,
        compensate and compensate.value,
        device=device,
        dtype=dtype.value,
        variant=variant,
        overwrite=overwrite,
        console=_console(),
    )


@app.command()
@_guarded
def apply(
    model: opt.Model,
    plan: Annotated[Path, typer.Option("--plan", callback=opt.expanded, help="What `plan` wrote.")],
    out: opt.OutFolder,
    device: opt.Device = "cpu",
    dtype: opt.LoadDtype = opt.Dtype.float32,
    variant: opt.Variant = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Carry a plan out: rewrite, validate, and save the slim pipeline."""
    from slimdiff_fx import commands

    commands.apply_command(model, plan, out, device, dtype.value, overwrite, _console(), variant)


@app.command()
@_guarded
def export(
    model: opt.Model,
    format: Annotated[opt.Format, typer.Option("--format", help="What to export to.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=opt.expanded, help="File to write; in the pipeline's folder by default."),
    ] = None,
    dtype: Annotated[opt.Dtype, typer.Option("--dtype", help="Precision of the exported weights.")] = opt.Dtype.float32,
    target: Annotated[
        opt.Target | None,
        typer.Option("--target", help="ONNX for any runtime (default), or with operators only ONNX Runtime has."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", min=18, max=25, help="ONNX operator set, 18 to 25; 20 by default.")
    ] = None,
    int8: Annotated[
        opt.Int8 | None,
        typer.Option(
            "--int8", help="Quantize: onnx static or dynamic, openvino weights, pt2, aoti, executorch static."
        ),
    ] = None,
    prompts: opt.Prompts = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="With --int8 static: how many prompts. [8]")
    ] = None,
    steps: opt.Steps = None,
    seed: opt.Seed = 0,
    residuals: Annotated[
        list[opt.Residuals] | None,
        typer.Option("--residuals", help="Make inputs of what these add inside the UNet; can be given twice."),
    ] = None,
    variant: opt.Variant = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Export the denoiser, and measure at once that the runtime gives the same prediction."""
    from slimdiff_fx import export_command

    options = export_command.ExportOptions(
        dtype=dtype.value,
        opset=opset,
        target=None if target is None else target.value,
        int8=None if int8 is None else int8.value,
        prompts=prompts,
        samples=samples,
        steps=steps,
        seed=seed,
        residuals=[each.value for each in residuals or ()],
        variant=variant,
    )
    export_command.export_command(model, format.value, out, options, overwrite, _console())


@app.command()
@_guarded
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", callback=opt.expanded, help="Folder that `slim` or `apply` wrote.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=opt.expanded, help="Page to write; report.html in the folder by default."),
    ] = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Write one self-contained HTML page on what was slimmed, that opens with no network."""
    from slimdiff_fx.page.write_page import write_page

    file = write_page(folder, out, overwrite=overwrite)
    _console().print(f"page: {file}", highlight=False, soft_wrap=True)
