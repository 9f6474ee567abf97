"""What each command does, once its options are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from passes.analyze.criteria import check_measured
from passes.calibrate.moments import moment_bytes
from passes.errors import PlanError
from passes.plan.policies import Policy
from passes.sites.find import find_unsupported
from slimdiff_fx.calibration.checkpoint import forget_checkpoint
from slimdiff_fx.calibration.ranks import joined_ranks, refuse_ranks
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.run import statistics_of
from slimdiff_fx.calibration.threads import restored_threads
from slimdiff_fx.commands.calibration_options import (
    CalibrationOptions,
    cache_of,
    calibrate_checkpoint,
    capture,
    listener_for,
    load,
    prompts_of,
)
from slimdiff_fx.commands.command_outputs import (
    MOMENTS_FOLDER,
    check_file_output,
    check_folder_output,
    note_replaced,
    tell_verdict,
    took,
)
from slimdiff_fx.commands.printed import inspect_table, slim_table, tell_prediction
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.files.own_files import PLAN, STATISTICS
from slimdiff_fx.files.plan_file import updates_file
from slimdiff_fx.files.statistics_file import load_statistics, save_statistics
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.pipelines.load import model_input
from slimdiff_fx.saved.folder import load_plan, save_plan, save_result
from slimdiff_fx.saved.report import build_report
from slimdiff_fx.saved.summary import short, summarize
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.planning import Planning


def inspect_command(model: str, device: str, dtype: str, console: Console, variant: str | None = None) -> None:
    """Print the sites."""
    start = time.perf_counter()
    refuse_ranks("inspect")
    listener = TerminalListener(console, ("load", "capture"))
    loaded = load(model, device, dtype, listener, variant)
    job = Job.capture(loaded.pipe, listener=listener)
    unsupported = tuple(find_unsupported(job.program))
    console.print(inspect_table(summarize(job.program, job.sites, None, unsupported)))
    console.print(f"second moments take {short(moment_bytes(job.sites))}B while calibrating:", highlight=False)
    console.print("--moments-folder keeps them on disk, --method threshold needs none", highlight=False)
    console.print(f"inspected in {took(start)}", highlight=False)


def calibrate_command(model: str, out: Path, options: CalibrationOptions, *, overwrite: bool, console: Console) -> None:
    """Write statistics."""
    start = time.perf_counter()
    checkpoint = calibrate_checkpoint(out)
    with restored_threads(), joined_ranks(options.device) as ranks:
        check_file_output(
            out,
            STATISTICS,
            options.inputs(model),
            overwrite=overwrite,
            checkpoint=checkpoint,
            ranks=ranks,
            work={MOMENTS_FOLDER: options.moments_folder},
        )
        listener = listener_for(console, ranks)
        prompts = prompts_of(options.prompts, ranks)
        loaded = load(model, ranks.device, options.dtype, listener, options.variant)
        stored = capture(loaded, options, prompts, checkpoint, listener, ranks).calibrate()
    if ranks.rank:
        return
    save_statistics(stored, out)
    forget_checkpoint(checkpoint)
    console.print(f"statistics of {stored.done} samples in {took(start)}: {out}", highlight=False, soft_wrap=True)


def plan_command(
    model: str,
    statistics: Path,
    out: Path,
    policy: Policy | KeepLatency | None,
    method: str | None,
    criterion: Sequence[str] | None,
    compensation: str | None,
    *,
    device: str,
    dtype: str,
    variant: str | None = None,
    overwrite: bool,
    console: Console,
) -> None:
    """Write a plan and print what it would leave."""
    start = time.perf_counter()
    refuse_ranks("plan")
    check_file_output(
        out,
        PLAN,
        {"MODEL": model_input(model), "--statistics": statistics},
        overwrite=overwrite,
        work={"--latency-cache": cache_of(policy)},
    )
    planning = Planning.asked(policy, method, criterion, compensation)
    sums = statistics_of(load_statistics(statistics))
    check_measured(sums, criterion)  # before the model is captured
    listener = TerminalListener(console, ("load", "capture", "analyze"))
    loaded = load(model, device, dtype, listener, variant)
    job = Job.capture(loaded.pipe, planning, settings=CalibrationSettings(loaded.sampling), listener=listener)
    with listener.stage("analyze"):
        plan = job.plan(sums)
    save_plan(plan, out)
    console.print(slim_table(summarize(job.program, job.sites, plan)))
    tell_prediction(plan, console)
    console.print(f"planned in {took(start)}: {out}", highlight=False, soft_wrap=True)


def apply_command(
    model: str,
    plan_file: Path,
    out: Path,
    device: str,
    dtype: str,
    overwrite: bool,
    console: Console,
    variant: str | None = None,
) -> None:
    """Carry a plan out and save."""
    start = time.perf_counter()
    refuse_ranks("apply")
    inputs = {"MODEL": model_input(model), "--plan": plan_file, "the plan": updates_file(plan_file)}
    check_folder_output(out, inputs, overwrite=overwrite)
    plan = load_plan(plan_file)
    listener = TerminalListener(console, ("load", "capture", "rewrite", "validate", "save"))
    note_replaced(out, listener)
    loaded = load(model, device, dtype, listener, variant)
    job = Job.capture(loaded.pipe, share=True, listener=listener)
    try:
        result = job.carry_out(plan)
    except PlanError as error:
        raise PlanError(f"{plan_file}: {error}") from error
    with listener.stage("save"):
        save_result(result, out, overwrite=overwrite, report=build_report(result, model=model))
    console.print(slim_table(result.summary))
    tell_verdict(out, console, start)
