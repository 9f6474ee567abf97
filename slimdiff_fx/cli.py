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
from slimdiff_fx.commands.options import running as opt
from slimdiff_fx.commands.options.flattened import as_values, flattened
from slimdiff_fx.commands.options.plan import Amount, How, Measuring, Watching
from slimdiff_fx.commands.options.policy import method_of, policy_of
from slimdiff_fx.commands.options.words import in_options, speak_for
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
# Errors that another option, file or folder would mend, exit with 2; all others exit with 1.
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
    # A path or a terminal that isn't UTF-8 must not end hours of work when it is printed.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(width=None if sys.stdout.isatty() else 128)


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def slim(
    model: opt.Model,
    *,
    watching: Watching,
    amount: Amount,
    how: How,
    sequential: opt.Sequential = None,
    machine: opt.Machine,
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

    with resumable(slim_checkpoint(out), resume=machine.resume):
        slim_command(
            model,
            out,
            CalibrationOptions(**as_values(watching, machine)),
            policy_of(amount, how),
            **method_of(how),
            sequential=sequential,
            pictures=pictures,
            sweep=sweep,
            overwrite=overwrite,
            console=_console(),
        )


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def inspect(
    model: opt.Model,
    *,
    loading: opt.Loading,
    debug: opt.Debug = False,
) -> None:
    """List every site with its size and cost, and what is left whole with the reason."""
    from slimdiff_fx.commands.stage_commands import inspect_command

    inspect_command(model, **as_values(loading), console=_console())


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def calibrate(
    model: opt.Model,
    *,
    measuring: Measuring,
    machine: opt.Machine,
    out: opt.OutFile,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Watch the denoiser run on a calibration set, and write the statistics (.safetensors)."""
    from slimdiff_fx.calibration.checkpoint import resumable
    from slimdiff_fx.commands.calibration_options import CalibrationOptions, calibrate_checkpoint
    from slimdiff_fx.commands.stage_commands import calibrate_command

    with resumable(calibrate_checkpoint(out), resume=machine.resume):
        calibrate_command(
            model,
            out,
            CalibrationOptions(**as_values(measuring, machine)),
            overwrite=overwrite,
            console=_console(),
        )


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def plan(
    model: opt.Model,
    *,
    statistics: opt.Statistics,
    amount: Amount,
    how: How,
    loading: opt.Loading,
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
        policy_of(amount, how),
        **method_of(how),
        **as_values(loading),
        overwrite=overwrite,
        console=_console(),
    )


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def apply(
    model: opt.Model,
    *,
    plan: opt.Plan,
    loading: opt.Loading,
    out: opt.OutFolder,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Carry a plan out: rewrite, validate, and save the slim pipeline."""
    from slimdiff_fx.commands.stage_commands import apply_command

    apply_command(model, plan, out, **as_values(loading), overwrite=overwrite, console=_console())


@app.command(context_settings=_SETTINGS)
@_guarded
@flattened
def export(
    model: opt.Model,
    *,
    quantizing: opt.Quantizing,
    variant: opt.Variant = None,
    format: opt.ExportFormat,
    out: opt.ExportFile = None,
    writing: opt.Writing,
    overwrite: opt.Overwrite = False,
    debug: opt.Debug = False,
) -> None:
    """Export the denoiser, and measure at once that the runtime gives the same prediction."""
    from slimdiff_fx.commands.export_command import ExportOptions, export_command

    options = ExportOptions(**as_values(quantizing, writing), variant=variant)
    export_command(model, format.value, out, options, overwrite, _console())


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
