"""What `slim` does: the main job, from options to a saved folder and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from passes.errors import UsageError
from passes.plan.policies import Policy
from slimdiff_fx.calibration.checkpoint import forget_checkpoint, has_attention_weights, has_moments
from slimdiff_fx.calibration.ranks import joined_ranks
from slimdiff_fx.calibration.threads import restored_threads
from slimdiff_fx.commands.calibration_options import (
    CalibrationOptions,
    cache_of,
    capture,
    listener_for,
    load,
    prompts_of,
    slim_checkpoint,
)
from slimdiff_fx.commands.command_outputs import MOMENTS_FOLDER, check_folder_output, note_replaced, tell_verdict
from slimdiff_fx.commands.printed import slim_table, what_went
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.listener import timed
from slimdiff_fx.option_checks import check_count
from slimdiff_fx.saved.compare import PICTURE_FILE, compare, picture_files, report_entries
from slimdiff_fx.saved.folder import save_result
from slimdiff_fx.saved.pictures import png_bytes, side_by_side
from slimdiff_fx.saved.report import build_report
from slimdiff_fx.slimming.call_latency import time_call
from slimdiff_fx.slimming.measured_sweep import measure_sweep
from slimdiff_fx.slimming.planning import Planning


def slim_command(
    model: str,
    out: Path,
    options: CalibrationOptions,
    policy: Policy | KeepLatency | None,
    method: str | None,
    criterion: Sequence[str] | None,
    compensation: str | None,
    *,
    sequential: int | None,
    pictures: int,
    sweep: int,
    overwrite: bool,
    console: Console,
) -> None:
    """Do the main job and say what came out."""
    start = time.perf_counter()
    check_count("pictures", pictures, least=0)
    if sweep and not pictures:
        raise UsageError("--sweep measures while pictures are drawn: give --pictures too")
    checkpoint = slim_checkpoint(out)
    with restored_threads(), joined_ranks(options.device) as ranks:
        check_folder_output(
            out,
            options.inputs(model),
            overwrite=overwrite,
            checkpoint=checkpoint,
            ranks=ranks,
            work={MOMENTS_FOLDER: options.moments_folder, "--latency-cache": cache_of(policy)},
        )
        # refuse what contradicts itself before hours of calibration
        planning = Planning.asked(policy, method, criterion, compensation, sequential)
        options = replace(
            options,
            moments=planning.needs_moments or (options.resume and has_moments(checkpoint)),
            attention_weights=planning.needs_attention_weights
            or (options.resume and has_attention_weights(checkpoint)),
        )
        listener = listener_for(console, ranks, _stages_of(policy, sequential, sweep))
        note_replaced(out, listener)
        prompts = prompts_of(options.prompts, ranks)
        loaded = load(model, ranks.device, options.dtype, listener, options.variant)
        job = capture(loaded, options, prompts, checkpoint, listener, ranks, planning)
        stored = job.calibrate()
    if ranks.rank:
        return
    if ranks.several and sequential is not None:
        listener.note("rank 0 calibrates the groups of --sequential alone")
    result = job.finish(stored)
    with timed("draw", job.seconds, listener):
        sampling = loaded.sampling.given(options.steps, options.guidance)
        comparison = compare(loaded, result, prompts, pictures, sampling, options.seed, job.samples)
    if sweep and comparison is not None:
        conditions = comparison.conditions
        with timed("sweep", job.seconds):
            measured = measure_sweep(
                loaded.pipe,
                job.program,
                result,
                sweep,
                conditions,
                sampling,
                seed=options.seed,
                given=comparison.given,
                listener=listener,
            )
        result = replace(result, analysis={**(result.analysis or {}), "measured": measured})
    call = None
    if result.latency is None:
        with listener.stage("time"):
            call = time_call(loaded.pipe, result.model, job.samples, sampling, options.seed).to_json()
    files = {}
    if comparison is not None:
        files = picture_files(comparison)
        files[PICTURE_FILE] = png_bytes(side_by_side(comparison, f"{model}: {what_went(result)}"))
    with listener.stage("save"):
        report = build_report(result, model=model, call=call, **report_entries(comparison, options.seed))
        save_result(result, out, overwrite=overwrite, report=report, files=files)
    forget_checkpoint(checkpoint)
    console.print(slim_table(result.summary))
    tell_verdict(out, console, start)


def _stages_of(policy: Policy | KeepLatency | None, sequential: int | None, sweep: int) -> tuple[str, ...]:
    """List what `slim` will go through, in the words of the listener."""
    maybe = {
        "recalibrate": sequential is not None,
        "sweep": sweep > 0,
    }
    pictures = ("time", "draw", "sweep") if isinstance(policy, KeepLatency) else ("draw", "sweep", "time")
    names = ("load", "capture", "calibrate", "analyze", "recalibrate", "rewrite", "validate", *pictures, "save")
    return tuple(name for name in names if maybe.get(name, True))
