"""The main job in one call: calibrate, analyze, rewrite, validate."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from passes.analyze.methods import RECIPES, Method, choose_method, planner_for
from passes.analyze.sequential import Observe, solve_sequentially
from passes.arguments import check_kind
from passes.calibrate.calibrate import Batch, calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from passes.program.ownership import owned, sealed, share_tensors, weights_digest
from passes.program.program import Program
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_unsupported
from passes.sites.site import Site
from passes.solve.compensation import Compensation
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.calibration.rehearse import rehearse
from slimdiff_fx.calibration.run import CalibrationSettings
from slimdiff_fx.calibration.shared_plan import plan_of_rank_0
from slimdiff_fx.calibration.timestep_weights import DEFAULT_WEIGHTS, bucket_weights
from slimdiff_fx.denoisers.altered import refuse_wrapped
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.denoisers.slim.reference import make_reference
from slimdiff_fx.denoisers.taken_over import take_over
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import measure_latency
from slimdiff_fx.listener import SILENT, Listener, timed
from slimdiff_fx.other_libraries import first_line
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_model, capture_pipeline
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.sampling import Sampling, denoiser_name
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.saved.summary import summarize
from slimdiff_fx.slimming.planning import Planning, check_policy, plan_from
from slimdiff_fx.slimming.progress_bar import BarListener
from slimdiff_fx.slimming.result import SlimResult
from slimdiff_fx.slimming.site_analysis import site_analysis


@torch.inference_mode(False)  # what is added up here is read, and the weights are trained, outside of that mode
def slim(
    pipe_or_model: DiffusionPipeline | ModelMixin,
    *,
    prompts: Iterable[str] | None = None,
    images: str | Path | None = None,
    calibrate_on: str | None = None,
    samples: int = 500,
    steps: int | None = None,
    guidance: float | None = None,
    observe_steps: int | None = None,
    method: Method | None = None,
    policy: Policy | KeepLatency | None = None,
    criterion: str | Sequence[str] | None = None,
    compensation: Compensation | None = None,
    timestep_weights: str | Sequence[float] = DEFAULT_WEIGHTS,
    moments_folder: str | Path | None = None,
    sequential: int | None = None,
    seed: int = 0,
    batch: int = 16,
    batches: Iterable[Batch] | None = None,
    check: bool = True,
    in_place: bool = False,
    ranks: Ranks = ALONE,
    progress: bool = True,
    listener: Listener | None = None,
) -> SlimResult:
    """Slim a pipeline's denoiser, with no training.

    What is returned owns its weights: model and pipeline, program and plan don't change with one another, nor with
    what was passed, whatever is trained, fused, cast or frozen later.

    Args:
        pipe_or_model: a diffusers pipeline; or a bare denoiser, which has to be given `batches`.
        prompts: to calibrate on; by default the captions that lie beside the pipeline.
        images: folder of pictures with caption files, to calibrate on instead of denoising trajectories.
        calibrate_on: "trajectory" takes the captions of `images` alone; see `slimdiff_fx.pipelines.inputs.samples`.
        samples: how many prompts or pictures; they are used again if there are fewer.
        steps: denoising steps of each sample, or noise levels of each picture; the pipeline's default if None.
        guidance: classifier-free guidance scale; the pipeline's default if None.
        observe_steps: observe only this many of the steps, chosen by the seed.
        method: "best", "slimdiff", "obs" or "threshold", see `passes.analyze.methods`; "best" unless a threshold or a
            criterion is given.
        policy: `KeepParams(fraction)`, `KeepMacs(fraction)`, `KeepLatency(fraction, backend)`, `MaxError(error)` or
            `Threshold(tau)`; by default as much goes as `MaxError()` allows.
        criterion: for "threshold", name of the score, one or one for each kind of site; see `passes.analyze.criteria`.
        compensation: for "threshold": "none", "bias" or "lstsq".
        timestep_weights: how much timesteps count in second moments; see `slimdiff_fx.calibration.timestep_weights`.
        moments_folder: keep second moments in files there, for models whose moments outgrow memory.
        sequential: solve for the new weights in so many groups of sites, each calibrated behind slim ones before it.
        seed: of everything random.
        batch: samples a pipeline call.
        batches: for a bare denoiser: arguments (args, kwargs) of its program.
        check: compare slim with masked dense; leave it on.
        in_place: take the dense denoiser's weights over, with no second copy. The dense denoiser then holds none and
            says so when it is called; the slim model and program share theirs, and the pipelines their other parts.
        ranks: processes that share the calibration, see `slimdiff_fx.calibration.ranks.joined_ranks`. Each has to call
            this with the same arguments, and gets the same statistics and plan.
        progress: show a bar, unless the pipeline's `set_progress_bar_config(disable=True)` turned bars off.
        listener: told about stages and progress, in place of the bar.

    Returns:
        The slim program, eager model and pipeline, with the plan and what was measured.

    Raises:
        SlimDiffError: see `passes.errors`; nothing is changed in what was passed, with `in_place` neither.
    """
    check_kind("pipe_or_model", pipe_or_model, (DiffusionPipeline, nn.Module), "a pipeline that from_pretrained loaded")
    check_policy(policy)
    if listener is None:
        shown = progress and ranks.rank == 0
        listener = BarListener(getattr(pipe_or_model, "_progress_bar_config", {})) if shown else SILENT
    seconds: dict[str, float] = {}
    # refuse what contradicts itself before hours of calibration
    chosen_method = choose_method(method, policy, criterion, compensation)
    weights = bucket_weights(timestep_weights)
    planning = Planning(chosen_method, policy, criterion, compensation, sequential)
    planning.check()
    if ranks.several and isinstance(policy, KeepLatency):
        raise UsageError("ranks that time the denoiser at once slow one another down: plan for latency in one process")
    if isinstance(pipe_or_model, nn.Module):
        if batches is None:
            raise UsageError("a bare denoiser has no prompts; pass the pipeline, or batches of the denoiser's inputs")
        if ranks.several:
            raise UsageError("ranks share a pipeline's samples; pass the pipeline, not a bare denoiser")
        if sequential is not None:
            raise UsageError("sequential calibration runs a pipeline several times; pass one, not a bare denoiser")
        with timed("capture", seconds, listener):
            captured = capture_model(pipe_or_model)
        planning.check_captured(captured)
        with timed("calibrate", seconds):
            watched = instrument(
                captured.program,
                captured.sites,
                attention_weights=planning.needs_attention_weights,
                moments=planning.needs_moments,
                weights=weights,
            )
            statistics = calibrate(watched, batches)
        result = finish(
            captured, None, statistics, planning, check=check, share=in_place, seconds=seconds, listener=listener
        )
        return _taken_over(result, pipe_or_model) if in_place else result
    pipe = pipe_or_model
    refuse_wrapped(pipe)
    chosen = gather_samples(
        pipe,
        prompts=prompts,
        images=images,
        samples=samples,
        seed=seed,
        listener=listener,
        calibrate_on=calibrate_on,
    )
    settings = CalibrationSettings(
        Sampling().given(steps, guidance),
        observe_steps,
        seed,
        batch,
        moments=planning.needs_moments,
        timestep_weights=weights,
        moments_folder=None if moments_folder is None else Path(moments_folder),
        attention_weights=planning.needs_attention_weights,
        ranks=ranks,
    )
    planning = planning.for_pipeline(pipe, settings.sampling.guidance)
    rehearse(pipe, chosen, settings)
    with timed("capture", seconds, listener):
        captured = capture_pipeline(pipe)
    planning.check_captured(captured)
    with timed("calibrate", seconds):
        stored = observe_pipeline(pipe, captured, chosen, settings, listener)
    watch = Recalibration(pipe, captured, chosen, settings, listener)
    result = finish(
        captured,
        pipe,
        stored.statistics,
        planning,
        watch,
        check=check,
        share=in_place,
        seconds=seconds,
        listener=listener,
        ranks=ranks,
    )
    result = replace(result, statistics=stored)
    return _taken_over(result, captured.model) if in_place else result


def _taken_over(result: SlimResult, dense: nn.Module) -> SlimResult:
    """Leave the dense model without weights; other plans can't be made of it any more."""
    take_over(dense)
    return replace(result, replan=None)


@dataclass(frozen=True)
class Recalibration:
    """Runs the calibration again, in this process alone, with another program in the denoiser's place."""

    pipe: DiffusionPipeline
    captured: CapturedDenoiser
    samples: Sequence[Sample]
    settings: CalibrationSettings
    listener: Listener = SILENT

    def __call__(self, program: Program, sites: tuple[Site, ...]) -> Statistics:
        """Calibrate a program, of the captured one's inputs, at some of its sites."""
        captured = replace(self.captured, program=program, sites=sites)
        settings = replace(self.settings, checkpoint=None, resume=False, ranks=ALONE)
        return observe_pipeline(self.pipe, captured, self.samples, settings, self.listener).statistics


def finish(
    captured: CapturedDenoiser,
    pipe: DiffusionPipeline | None,
    statistics: Statistics,
    planning: Planning,
    recalibrate: Observe | None = None,
    *,
    check: bool = True,
    share: bool = False,
    seconds: dict[str, float] | None = None,
    listener: Listener = SILENT,
    ranks: Ranks = ALONE,
) -> SlimResult:
    """Plan from statistics, then carry the plan out; `share` as in `carry_out`."""
    seconds = {} if seconds is None else seconds
    program, sites = captured.program, captured.sites
    dense_weights = weights_digest(captured.program.graph_module)
    with timed("analyze", seconds, listener):
        planner = planner_for(program, sites, statistics, planning.method, planning.compensation or "none")
        plan = plan_from(captured, statistics, planning, listener, planner)
        analysis = site_analysis(program, sites, statistics, plan, planner, planning.criterion)
    if planning.sequential is not None and recalibrate is not None:
        with timed("recalibrate", seconds):
            plan = solve_sequentially(
                captured.program,
                captured.sites,
                plan,
                statistics,
                recalibrate,
                planning.sequential,
                planning.compensation or "lstsq",
                as_published=not RECIPES[planning.method].joint,
            )
    if ranks.several:
        plan = plan_of_rank_0(plan, ranks)
    result = carry_out(captured, pipe, plan, check=check, share=share, seconds=seconds, listener=listener)
    if isinstance(planning.policy, KeepLatency):
        with timed("time", seconds, listener):
            latency = measure_latency(planning.policy, captured.program, plan, captured.model)
        result = replace(result, latency=latency)

    def replan(policy: Policy) -> SlimPlan:
        if weights_digest(captured.program.graph_module) != dense_weights:
            raise UsageError("the dense model's weights have changed since it was calibrated; slim it anew")
        return plan_from(captured, statistics, replace(planning, policy=policy), planner=planner).copy()

    return replace(result, analysis=analysis, replan=replan)


def carry_out(
    captured: CapturedDenoiser,
    pipe: DiffusionPipeline | None,
    plan: SlimPlan,
    *,
    check: bool = True,
    share: bool = False,
    seconds: dict[str, float] | None = None,
    listener: Listener = SILENT,
) -> SlimResult:
    """Rewrite the program by a plan, validate it, and make the eager slim model and pipeline.

    Args:
        captured: the dense denoiser.
        pipe: the pipeline it is of, if any.
        plan: made for it.
        check: compare the slim program with the masked dense one, and the eager slim model with the slim program.
        share: let slim model and program share one set of weights, with the dense model where it is as it was, and the
            slim pipeline its other parts with the dense one: for who hands none of the dense ones out.
        seconds: what each stage took is added here.
        listener: told about stages.
    """
    seconds = {} if seconds is None else seconds
    with timed("rewrite", seconds, listener):
        program = rewrite(captured.program, plan)
        model = make_slim(captured.model, plan, share=share)
        if share:
            share_tensors(program.graph_module, model)
        else:
            program = owned(program)
    validation = None
    with timed("validate", seconds, listener) if check else nullcontext():
        if check:
            validation = validate(captured.program, plan, program)
            program = sealed(program)
        reference = make_reference(captured.inputs, program, model, check=check)
    slim_pipe = None if pipe is None else _pipeline_with(pipe, model, share=share)
    summary = summarize(captured.program, captured.sites, plan, tuple(find_unsupported(captured.program)))
    handed = plan if share else plan.copy()  # a planner keeps what it has solved for, to give it again
    return SlimResult(handed, program, model, slim_pipe, summary, None, validation, seconds, reference=reference)


def _pipeline_with(pipe: DiffusionPipeline, model: ModelMixin, *, share: bool) -> DiffusionPipeline:
    """Make a pipeline with another denoiser; its other parts are copies, or with `share` the same."""
    name = denoiser_name(pipe)
    parts = {} if share else {part: value for part, value in pipe.components.items() if part != name}
    try:
        # in one go, so that what two parts hold together they still hold together
        parts = copy.deepcopy(parts)
    except Exception as error:  # whatever a component of another library raises
        raise UsageError(
            f"a component of the {type(pipe).__name__} can't be copied ({type(error).__name__}: {first_line(error)}); "
            "pass in_place=True, which shares them"
        ) from error
    # A shallow copy shares every component; registering replaces them in the copy alone.
    made = copy.copy(pipe)
    made.register_modules(**{**parts, name: model})
    return made
