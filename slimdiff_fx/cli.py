"""The command line: `slimdiff-fx slim|inspect|calibrate|plan|apply|export|report`."""

from __future__ import annotations

import functools
import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
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
from slimdiff_fx.commands import choices
from slimdiff_fx.commands import options as opt
from slimdiff_fx.commands.option_words import in_options, speak_for
from slimdiff_fx.commands.policy_options import LatencyOptions, choose_policy, is_by_score
from slimdiff_fx.other_libraries import first_line, quiet_logging

_SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="slimdiff-fx",
    help="Slim diffusion denoisers with no training, by what their activations carry.",
    context_settings=_SETTINGS,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_HINT = """\
Most people need one line:

  slimdiff-fx slim MODEL -o DIR

MODEL is a diffusers pipeline folder, a hub id, or `emoji`, which is built in.
DIR is the folder to write. `slimdiff-fx --help` lists the other commands."""
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


def _show_version(asked: bool) -> None:
    if asked:
        versions = (f"{name} {metadata.version(name)}" for name in ("slimdiff-fx", "torch", "diffusers"))
        print(", ".join(versions))  # asks the packages' records: importing them takes seconds
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Slim diffusion denoisers with no training, by what their activations carry."""
    if context.invoked_subcommand is None:
        print(_HINT)


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
            said = f"unexpected {type(error).__name__}: {first_line(error)}"
            _complain(f"{said}; run again with --debug and report what it shows")
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


@app.command(context_settings=_SETTINGS)
@_guarded
def slim(
    model: opt.Model,
    *,
    prompts: opt.Prompts = None,
    images: opt.Images = None,
    calibrate_on: opt.CalibrateOnOption = None,
    samples: opt.Samples = 500,
    steps: opt.Steps = None,
    observe_steps: opt.ObserveSteps = None,
    guidance: opt.Guidance = None,
    seed: opt.Seed = 0,
    timestep_weights: opt.TimestepWeightsOption = choices.TimestepWeights.uniform,
    batch: opt.Batch = 16,
    tau: opt.Tau = None,
    keep_params: opt.KeepParamsOption = None,
    keep_macs: opt.KeepMacsOption = None,
    keep_latency: opt.KeepLatencyOption = None,
    max_error: opt.MaxErrorOption = None,
    align: opt.AlignOption = None,
    uniform: opt.Uniform = False,
    backend: opt.Backend = None,
    latency_batch: opt.LatencyBatch = None,
    latency_height: opt.LatencyHeight = None,
    latency_width: opt.LatencyWidth = None,
    latency_tokens: opt.LatencyTokens = None,
    latency_threads: opt.LatencyThreads = None,
    latency_cache: opt.LatencyCache = None,
    method: opt.MethodOption = None,
    criterion: opt.Criterion = None,
    normalize: opt.NormalizeOption = choices.Normalize.max,
    compensate: opt.CompensateOption = None,
    sequential: opt.Sequential = None,
    moments_folder: opt.MomentsFolder = None,
    device: opt.Device = "auto",
    dtype: opt.LoadDtype = choices.Dtype.auto,
    variant: opt.Variant = None,
    resume: opt.Resume = False,
    out: opt.OutFolder,
    pictures: opt.Pictures = 8,
    sweep: opt.Sweep = 0,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Slim a pipeline: calibrate, analyze, rewrite, validate, draw, save. This is the main job."""
    from slimdiff_fx.calibration.checkpoint import resumable
    from slimdiff_fx.commands.calibration_options import CalibrationOptions, slim_checkpoint
    from slimdiff_fx.commands.slim_command import slim_command

    with resumable(slim_checkpoint(out), resume=resume):
        slim_command(
            model,
            out,
            CalibrationOptions(
                prompts=prompts,
                images=images,
                samples=samples,
                steps=steps,
                observe_steps=observe_steps,
                guidance=guidance,
                seed=seed,
                batch=batch,
                device=device,
                dtype=dtype.value,
                resume=resume,
                timestep_weights=timestep_weights.value,
                moments_folder=moments_folder,
                calibrate_on=calibrate_on and calibrate_on.value,
                variant=variant,
            ),
            choose_policy(
                tau=tau,
                keep_params=keep_params,
                keep_macs=keep_macs,
                keep_latency=keep_latency,
                max_error=max_error,
                normalize=normalize,
                align=align,
                latency=LatencyOptions(
                    backend=backend,
                    batch=latency_batch,
                    height=latency_height,
                    width=latency_width,
                    tokens=latency_tokens,
                    threads=latency_threads,
                    cache=latency_cache,
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


@app.command(context_settings=_SETTINGS)
@_guarded
def inspect(
    model: opt.Model,
    *,
    device: opt.Device = "auto",
    dtype: opt.LoadDtype = choices.Dtype.auto,
    variant: opt.Variant = None,
    debug: opt.Debug = False,
) -> None:
    """List every site with its size and cost, and what is left whole with the reason."""
    from slimdiff_fx.commands.stage_commands import inspect_command

    inspect_command(model, device, dtype.value, _console(), variant)


@app.command(context_settings=_SETTINGS)
@_guarded
def calibrate(
    model: opt.Model,
    *,
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
    timestep_weights: opt.TimestepWeightsOption = choices.TimestepWeights.uniform,
    batch: opt.Batch = 16,
    moments_folder: opt.MomentsFolder = None,
    device: opt.Device = "auto",
    dtype: opt.LoadDtype = choices.Dtype.auto,
    variant: opt.Variant = None,
    resume: opt.Resume = False,
    out: opt.OutFile,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Watch the denoiser run on a calibration set, and write the statistics (.safetensors)."""
    from slimdiff_fx.calibration.checkpoint import resumable
    from slimdiff_fx.commands.calibration_options import CalibrationOptions, calibrate_checkpoint
    from slimdiff_fx.commands.stage_commands import calibrate_command

    with resumable(calibrate_checkpoint(out), resume=resume):
        calibrate_command(
            model,
            out,
            CalibrationOptions(
                prompts=prompts,
                images=images,
                samples=samples,
                steps=steps,
                observe_steps=observe_steps,
                guidance=guidance,
                seed=seed,
                batch=batch,
                device=device,
                dtype=dtype.value,
                resume=resume,
                moments=moments,
                timestep_weights=timestep_weights.value,
                moments_folder=moments_folder,
                calibrate_on=calibrate_on and calibrate_on.value,
                attention_weights=attention_weights,
                variant=variant,
            ),
            overwrite=overwrite,
            console=_console(),
        )


@app.command(context_settings=_SETTINGS)
@_guarded
def plan(
    model: opt.Model,
    *,
    statistics: opt.Statistics,
    tau: opt.Tau = None,
    keep_params: opt.KeepParamsOption = None,
    keep_macs: opt.KeepMacsOption = None,
    keep_latency: opt.KeepLatencyOption = None,
    max_error: opt.MaxErrorOption = None,
    align: opt.AlignOption = None,
    uniform: opt.Uniform = False,
    backend: opt.Backend = None,
    latency_batch: opt.LatencyBatch = None,
    latency_height: opt.LatencyHeight = None,
    latency_width: opt.LatencyWidth = None,
    latency_tokens: opt.LatencyTokens = None,
    latency_threads: opt.LatencyThreads = None,
    latency_cache: opt.LatencyCache = None,
    method: opt.MethodOption = None,
    criterion: opt.Criterion = None,
    normalize: opt.NormalizeOption = choices.Normalize.max,
    compensate: opt.CompensateOption = None,
    device: opt.Device = "auto",
    dtype: opt.LoadDtype = choices.Dtype.auto,
    variant: opt.Variant = None,
    out: opt.OutFile,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Decide from statistics which units stay, and write the plan (.json)."""
    from slimdiff_fx.commands.stage_commands import plan_command

    plan_command(
        model,
        statistics,
        out,
        choose_policy(
            tau=tau,
            keep_params=keep_params,
            keep_macs=keep_macs,
            keep_latency=keep_latency,
            max_error=max_error,
            normalize=normalize,
            align=align,
            latency=LatencyOptions(
                backend=backend,
                batch=latency_batch,
                height=latency_height,
                width=latency_width,
                tokens=latency_tokens,
                threads=latency_threads,
                cache=latency_cache,
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


@app.command(context_settings=_SETTINGS)
@_guarded
def apply(
    model: opt.Model,
    *,
    plan: opt.Plan,
    device: opt.Device = "auto",
    dtype: opt.LoadDtype = choices.Dtype.auto,
    variant: opt.Variant = None,
    out: opt.OutFolder,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Carry a plan out: rewrite, validate, and save the slim pipeline."""
    from slimdiff_fx.commands.stage_commands import apply_command

    apply_command(model, plan, out, device, dtype.value, overwrite, _console(), variant)


@app.command(context_settings=_SETTINGS)
@_guarded
def export(
    model: opt.Model,
    *,
    int8: opt.Int8Option = None,
    prompts: opt.Int8Prompts = None,
    samples: opt.Int8Samples = None,
    steps: opt.Int8Steps = None,
    seed: opt.Int8Seed = 0,
    variant: opt.Variant = None,
    format: opt.ExportFormat,
    out: opt.ExportFile = None,
    dtype: opt.ExportDtype = choices.Dtype.auto,
    target: opt.ExportTarget = None,
    opset: opt.Opset = None,
    residuals: opt.ExportResiduals = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Export the denoiser, and measure at once that the runtime gives the same prediction."""
    from slimdiff_fx.commands import export_command

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


@app.command(context_settings=_SETTINGS)
@_guarded
def report(
    folder: opt.ReportFolder,
    *,
    out: opt.Page = None,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Make the page on a slim folder anew: one file that opens with no network."""
    from slimdiff_fx.saved.page.write_page import write_page

    file = write_page(folder, out, overwrite=overwrite)
    _console().print(f"page: {file}", highlight=False, soft_wrap=True)


speak_for(command.callback for command in app.registered_commands if command.callback is not None)
