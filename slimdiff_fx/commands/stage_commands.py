"""What each command does, once its options are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from passes.analyze.criteria import check_measured, choose
from passes.analyze.methods import choose_method
from passes.calibrate.moments import moment_bytes
from passes.errors import PlanError, UsageError
from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from passes.sites.find import find_unsupported
from passes.solve.compensation import COMPENSATIONS
from slimdiff_fx.calibration.checkpoint import (
    find_checkpoint,
    forget_checkpoint,
    has_attention_weights,
    has_moments,
)
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.ranks import Ranks, joined_ranks, refuse_ranks
from slimdiff_fx.calibration.rehearse import rehearse
from slimdiff_fx.calibration.run import CalibrationSettings, statistics_of
from slimdiff_fx.calibration.threads import choose_threads, restored_threads
from slimdiff_fx.calibration.timestep_weights import bucket_weights
from slimdiff_fx.commands.command_outputs import (
    MOMENTS_FOLDER,
    check_file_output,
    check_folder_output,
    note_edited,
    note_replaced,
    tell_verdict,
    took,
)
from slimdiff_fx.commands.printed import inspect_table, slim_table
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.files.output_paths import expand
from slimdiff_fx.files.own_files import PLAN, STATISTICS
from slimdiff_fx.files.plan_file import updates_file
from slimdiff_fx.files.statistics_file import StoredStatistics, load_statistics, save_statistics
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import expected_ratio
from slimdiff_fx.listener import SILENT, Listener, timed
from slimdiff_fx.option_checks import check_count, check_number, check_seed
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.inputs.prompts import read_prompts
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import LoadedPipeline, load_pipeline, model_input
from slimdiff_fx.saved.compare import PICTURE_FILE, compare, picture_files, report_entries
from slimdiff_fx.saved.folder import load_plan, save_plan, save_result
from slimdiff_fx.saved.pictures import png_bytes, side_by_side
from slimdiff_fx.saved.report import build_report
from slimdiff_fx.saved.summary import short, summarize
from slimdiff_fx.slimming.call_latency import time_call
from slimdiff_fx.slimming.in_one_call import Recalibration, carry_out, finish
from slimdiff_fx.slimming.measured_sweep import measure_sweep
from slimdiff_fx.slimming.planning import Planning, plan_from
from slimdiff_fx.slimming.result import SlimResult


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of calibration, as the user gave them."""

    prompts: Path | None
    images: Path | None
    samples: int
    steps: int | None
    observe_steps: int | None
    guidance: float | None
    seed: int
    batch: int
    device: str
    dtype: str
    resume: bool
    moments: bool = True
    timestep_weights: str = "uniform"
    moments_folder: Path | None = None
    calibrate_on: str | None = None
    attention_weights: bool = False
    variant: str | None = None

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        check_count("steps", self.steps)
        check_count("observe_steps", self.observe_steps)
        check_count("batch", self.batch)
        check_number("guidance", self.guidance)
        check_seed("seed", self.seed)

    def inputs(self, model: str) -> dict[str, Path | None]:
        """Give what is read, by option; see `slimdiff_fx.commands.command_outputs`.

        Raises:
            UsageError: prompts and pictures are given.
        """
        if self.prompts is not None and self.images is not None:
            raise UsageError("prompts and images are given together; give one of them")
        return {"MODEL": model_input(model), "--prompts": self.prompts, "--images": self.images}

    def settings(self, loaded: LoadedPipeline, checkpoint: Path, ranks: Ranks) -> CalibrationSettings:
        """Join them with the defaults that came with the pipeline."""
        sampling = loaded.sampling.given(self.steps, self.guidance)
        return CalibrationSettings(
            sampling,
            self.observe_steps,
            self.seed,
            self.batch,
            checkpoint,
            self.resume,
            self.moments,
            bucket_weights(self.timestep_weights),
            self.moments_folder,
            self.attention_weights,
            ranks,
        )


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
    seconds: dict[str, float] = {}
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
            work={MOMENTS_FOLDER: options.moments_folder, "--latency-cache": _cache_of(policy)},
        )
        # refuse what contradicts itself before hours of calibration
        planning = replace(_planning(policy, method, criterion, compensation), sequential=sequential)
        options = replace(
            options,
            moments=planning.needs_moments or (options.resume and has_moments(checkpoint)),
            attention_weights=planning.needs_attention_weights
            or (options.resume and has_attention_weights(checkpoint)),
        )
        listener = _listener(console, ranks, _stages_of(policy, sequential, sweep))
        note_replaced(out, listener)
        prompts = _read_prompts(options.prompts, ranks)
        loaded = _load(model, ranks.device, options.dtype, listener, options.variant)
        planning = planning.for_pipeline(loaded.pipe, loaded.sampling.given(None, options.guidance).guidance)
        run, stored = _calibrate(loaded, options, prompts, checkpoint, seconds, listener, ranks, planning)
    if ranks.rank:
        return
    if ranks.several and sequential is not None:
        listener.note("rank 0 calibrates the groups of --sequential alone")
    result = finish(
        run.captured, loaded.pipe, stored.statistics, planning, run, share=True, seconds=seconds, listener=listener
    )
    result = replace(result, statistics=stored)
    with timed("draw", seconds, listener):
        sampling = loaded.sampling.given(options.steps, options.guidance)
        comparison = compare(loaded, result, prompts, pictures, sampling, options.seed, run.samples)
    if sweep and comparison is not None:
        conditions = comparison.conditions
        with timed("sweep", seconds):
            measured = measure_sweep(
                loaded.pipe,
                run.captured.program,
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
            call = time_call(loaded.pipe, result.model, run.samples, sampling, options.seed).to_json()
    files = {}
    if comparison is not None:
        files = picture_files(comparison)
        files[PICTURE_FILE] = png_bytes(side_by_side(comparison, f"{model}: {_gone(result)}"))
    with listener.stage("save"):
        report = build_report(result, model=model, call=call, **report_entries(comparison, options.seed))
        save_result(result, out, overwrite=overwrite, report=report, files=files)
    forget_checkpoint(checkpoint)
    console.print(slim_table(result.summary))
    tell_verdict(out, console, start)


def inspect_command(model: str, device: str, dtype: str, console: Console, variant: str | None = None) -> None:
    """Print the sites."""
    start = time.perf_counter()
    refuse_ranks("inspect")
    listener = TerminalListener(console, ("load", "capture"))
    loaded = _load(model, device, dtype, listener, variant)
    with listener.stage("capture"):
        captured = capture_pipeline(loaded.pipe)
    unsupported = tuple(find_unsupported(captured.program))
    console.print(inspect_table(summarize(captured.program, captured.sites, None, unsupported)))
    console.print(f"second moments take {short(moment_bytes(captured.sites))}B while calibrating:", highlight=False)
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
        listener = _listener(console, ranks)
        prompts = _read_prompts(options.prompts, ranks)
        loaded = _load(model, ranks.device, options.dtype, listener, options.variant)
        _, stored = _calibrate(loaded, options, prompts, checkpoint, {}, listener, ranks)
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
        work={"--latency-cache": _cache_of(policy)},
    )
    planning = _planning(policy, method, criterion, compensation)
    sums = statistics_of(load_statistics(statistics))
    check_measured(sums, criterion)  # before the model is captured
    listener = TerminalListener(console, ("load", "capture", "analyze"))
    loaded = _load(model, device, dtype, listener, variant)
    planning = planning.for_pipeline(loaded.pipe, loaded.sampling.guidance)
    with listener.stage("capture"):
        captured = capture_pipeline(loaded.pipe)
    with listener.stage("analyze"):
        plan = plan_from(captured, sums, planning, listener)
    save_plan(plan, out)
    console.print(slim_table(summarize(captured.program, captured.sites, plan)))
    _tell_prediction(plan, console)
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
    loaded = _load(model, device, dtype, listener, variant)
    with listener.stage("capture"):
        captured = capture_pipeline(loaded.pipe)
    try:
        result = carry_out(captured, loaded.pipe, plan, share=True, listener=listener)
    except PlanError as error:
        raise PlanError(f"{plan_file}: {error}") from error
    with listener.stage("save"):
        save_result(result, out, overwrite=overwrite, report=build_report(result, model=model))
    console.print(slim_table(result.summary))
    tell_verdict(out, console, start)


def _load(model: str, device: str, dtype: str, listener: Listener, variant: str | None) -> LoadedPipeline:
    with listener.stage("load"):
        loaded = load_pipeline(model, device=device, dtype=dtype, variant=variant)
    note_edited(loaded.edited, listener)
    return loaded


def _listener(console: Console, ranks: Ranks, stages: Sequence[str] = ()) -> Listener:
    return TerminalListener(console, stages) if ranks.rank == 0 else SILENT


def _stages_of(policy: Policy | KeepLatency | None, sequential: int | None, sweep: int) -> tuple[str, ...]:
    """List what `slim` will go through, in the words of the listener."""
    maybe = {
        "recalibrate": sequential is not None,
        "sweep": sweep > 0,
    }
    pictures = ("time", "draw", "sweep") if isinstance(policy, KeepLatency) else ("draw", "sweep", "time")
    names = ("load", "capture", "calibrate", "analyze", "recalibrate", "rewrite", "validate", *pictures, "save")
    return tuple(name for name in names if maybe.get(name, True))


def _calibrate(
    loaded: LoadedPipeline,
    options: CalibrationOptions,
    prompts: Sequence[str] | None,
    checkpoint: Path,
    seconds: dict[str, float],
    listener: Listener,
    ranks: Ranks,
    planning: Planning | None = None,
) -> tuple[Recalibration, StoredStatistics]:
    settings = options.settings(loaded, checkpoint, ranks)
    samples = gather_samples(
        loaded.pipe,
        prompts=prompts,
        images=options.images,
        samples=options.samples,
        seed=options.seed,
        listener=listener,
        folder=loaded.folder,
        calibrate_on=options.calibrate_on,
    )
    if options.resume and not find_checkpoint(checkpoint, ranks):
        listener.note(f"there is no checkpoint at {checkpoint}: starting anew")
    rehearse(loaded.pipe, samples, settings)
    choose_threads(loaded.pipe, samples, settings)
    with timed("capture", seconds, listener):
        captured = capture_pipeline(loaded.pipe)
    if planning is not None:
        planning.check_captured(captured)
    with timed("calibrate", seconds):
        stored = observe_pipeline(loaded.pipe, captured, samples, settings, listener)
    return Recalibration(loaded.pipe, captured, samples, settings, listener), stored


def _read_prompts(file: Path | None, ranks: Ranks) -> tuple[str, ...] | None:
    if file is None:
        return None
    if ranks.several and not file.is_file():
        raise UsageError(f"each rank reads the prompts, and {file} can be read once; write them to a file")
    return read_prompts(file)


def _planning(
    policy: Policy | KeepLatency | None, method: str | None, criterion: Sequence[str] | None, compensation: str | None
) -> Planning:
    choose(criterion)
    known = next((name for name in COMPENSATIONS if name == compensation), None)
    planning = Planning(choose_method(method, policy, criterion, known), policy, criterion, known)
    planning.check()
    return planning


def _cache_of(policy: Policy | KeepLatency | None) -> Path | None:
    return expand(policy.cache) if isinstance(policy, KeepLatency) and policy.cache is not None else None


def _tell_prediction(plan: SlimPlan, console: Console) -> None:
    expected = plan.predicted.get("relative_mse")
    if expected is not None:
        console.print(f"expected relative squared error of the prediction: {expected:.1e}", highlight=False)
    ratio = expected_ratio(plan)
    if ratio is not None:
        console.print(f"expected latency: {ratio:.3f} of the dense one", highlight=False)


def _gone(result: SlimResult) -> str:
    summary = result.summary
    share = 1 - summary.site_params_kept / summary.site_params if summary.site_params else 0.0
    return f"{share:.1%} of the sites' weights removed, {1 - summary.macs_kept / summary.macs:.1%} of the MACs"


def slim_checkpoint(out: Path) -> Path:
    """Name the file that keeps the state of `slim`'s calibration."""
    return _beside(out, ".calibration.safetensors")


def calibrate_checkpoint(out: Path) -> Path:
    """Name the file that keeps the state of `calibrate`."""
    return _beside(out, ".checkpoint")


def _beside(out: Path, ending: str) -> Path:
    return out.absolute().parent / f"{out.name}{ending}"
