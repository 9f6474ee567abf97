"""Carry a plan out: rewrite, prove, make the eager model, and put it into its pipeline."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from diffusers import DiffusionPipeline, ModelMixin

from passes.analyze.methods import RECIPES, planner_for
from passes.analyze.sequential import Observe, solve_sequentially
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
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.shared_plan import plan_of_rank_0
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.denoisers.slim.reference import make_reference
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import measure_latency
from slimdiff_fx.listener import SILENT, Listener, timed
from slimdiff_fx.other_libraries import first_line
from slimdiff_fx.pipelines.captured import CapturedDenoiser
from slimdiff_fx.pipelines.sampling import denoiser_name
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.saved.summary import summarize
from slimdiff_fx.slimming.planning import Planning, plan_from
from slimdiff_fx.slimming.result import SlimResult
from slimdiff_fx.slimming.site_analysis import site_analysis


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
