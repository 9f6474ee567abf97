"""The main job in one call: calibrate, analyze, rewrite, validate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from passes.calibrate import Batch, calibrate
from passes.compensation import Compensation
from passes.criteria import needs_attention_weights
from passes.errors import UsageError
from passes.instrument import instrument
from passes.methods import RECIPES, Method, analyze, choose_method, planner_for
from passes.output_criteria import OUTPUT_CRITERIA
from passes.plan import SlimPlan
from passes.planner import Planner
from passes.policies import Policy
from passes.program import Program
from passes.rewrite import rewrite
from passes.sequential import Observe, solve_sequentially
from passes.site import Site
from passes.sites import find_unsupported
from passes.statistics import Statistics
from passes.validate import ValidationReport, validate
from slimdiff_fx.calibration_run import CalibrationSettings
from slimdiff_fx.calibration_set import gather_samples
from slimdiff_fx.captured import CapturedDenoiser, capture_model, capture_pipeline, observe_pipeline
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import Latency, measure_latency
from slimdiff_fx.latency.table import measured_costs
from slimdiff_fx.latency.target import guided_batch
from slimdiff_fx.listener import SILENT, Listener, timed
from slimdiff_fx.ranks import ALONE, Ranks
from slimdiff_fx.runtimes import require
from slimdiff_fx.sampling import Sampling, denoiser_name
from slimdiff_fx.shared_plan import plan_of_rank_0
from slimdiff_fx.site_analysis import site_analysis
from slimdiff_fx.slim_models import make_slim
from slimdiff_fx.statistics_file import StoredStatistics
from slimdiff_fx.summary import Summary, summarize
from slimdiff_fx.timestep_weights import DEFAULT_WEIGHTS, bucket_weights
from slimdiff_fx.trajectory import Sample


@dataclass(frozen=True)
class SlimResult:
    """What slimming gave.

    Attributes:
        plan: which units stay.
        program: the slim graph.
        model: the slim eager model.
        pipe: the pipeline with the slim model in it, or None when a bare model was slimmed. It shares its other
            components with the dense pipeline.
        summary: what was there and what stays, site by site.
        statistics: what calibration saw.
        validation: how far slim is from masked dense; None if it was switched off.
        seconds: wall time of each stage.
        latency: of dense and slim in turn, where latency was the budget.
        analysis: what the plan was made from, see `slimdiff_fx.site_analysis`; None where a given plan was carried out.
        replan: makes a plan from the same calibration by another policy; None likewise.
    """

    plan: SlimPlan
    program: Program
    model: ModelMixin
    pipe: DiffusionPipeline | None
    summary: Summary
    statistics: StoredStatistics | None
    validation: ValidationReport | None
    seconds: dict[str, float] = field(default_factory=dict)
    latency: Latency | None = None
    analysis: Mapping[str, Any] | None = None
    replan: Callable[[Policy], SlimPlan] | None = field(default=None, repr=False, compare=False)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Save a pipeline folder that `DiffusionPipeline.from_pretrained` loads; see `slimdiff_fx.checkpoint`.

        Raises:
            UsageError: a bare model was slimmed, so there is no pipeline to save.
            CheckpointError: the folder is in the way or can't be written; nothing is half-written.
        """
        from slimdiff_fx.checkpoint import save_result

        save_result(self, Path(folder), overwrite=overwrite)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, create_pr: bool = False
    ) -> str:
        """Upload what `save_pretrained` writes, the model card included, to a repository of the hub.

        A folder that was saved already is uploaded as well by `hf upload owner/name FOLDER`.

        Args:
            repo_id: "owner/name"; made if there is none.
            private: whether a new repository is private; the owner's default if None.
            token: the one that `hf auth login` has kept if None.
            create_pr: propose the files in place of committing them.

        Returns:
            The address of the commit.

        Raises:
            UsageError: a bare model was slimmed, so there is no pipeline to upload.
        """
        from slimdiff_fx.hub import push_result

        return push_result(self, repo_id, private=private, token=token, create_pr=create_pr)


def slim(
    pipe_or_model: DiffusionPipeline | ModelMixin,
    *,
    prompts: Sequence[str] | None = None,
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
    ranks: Ranks = ALONE,
    listener: Listener = SILENT,
) -> SlimResult:
    """Slim a pipeline's denoiser, with no training.

    Args:
        pipe_or_model: a diffusers pipeline; or a bare denoiser, which has to be given `batches`.
        prompts: to calibrate on; by default the captions that lie beside the pipeline.
        images: folder of pictures with caption files, to calibrate on instead of denoising trajectories.
        calibrate_on: "trajectory" takes the captions of `images` alone; see `slimdiff_fx.calibration_set`.
        samples: how many prompts or pictures; they are used again if there are fewer.
        steps: denoising steps of each sample, or noise levels of each picture; the pipeline's default if None.
        guidance: classifier-free guidance scale; the pipeline's default if None.
        observe_steps: observe only this many of the steps, chosen by the seed.
        method: "best", "slimdiff", "obs" or "threshold", see `passes.methods`; "best" unless a threshold or a criterion
            is given.
        policy: `KeepParams(fraction)`, `KeepMacs(fraction)`, `KeepLatency(fraction, backend)`, `MaxError(error)` or
            `Threshold(tau)`; by default as much goes as `MaxError()` allows.
        criterion: for "threshold", name of the score, one or one for each kind of site; see `passes.criteria`.
        compensation: for "threshold": "none", "bias" or "lstsq".
        timestep_weights: how much timesteps count in second moments; see `slimdiff_fx.timestep_weights`.
        moments_folder: keep second moments in files there, for models whose moments outgrow memory.
        sequential: solve for the new weights in so many groups of sites, each calibrated behind slim ones before it.
        seed: of everything random.
        batch: samples a pipeline call.
        batches: for a bare denoiser: arguments (args, kwargs) of its program.
        check: compare slim with masked dense; leave it on.
        ranks: processes that share the calibration, see `slimdiff_fx.ranks.joined_ranks`. Each has to call this with
            the same arguments, and gets the same statistics and plan.
        listener: told about stages and progress.

    Returns:
        The slim program, eager model and pipeline, with the plan and what was measured.

    Raises:
        SlimDiffError: see `passes.errors`; nothing is changed in what was passed.
    """
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
        with timed("calibrate", seconds):
            watched = instrument(
                captured.program,
                captured.sites,
                attention_weights=planning.needs_attention_weights,
                moments=planning.needs_moments,
                weights=weights,
            )
            statistics = calibrate(watched, batches)
        return finish(captured, None, statistics, planning, check=check, seconds=seconds, listener=listener)
    pipe = pipe_or_model
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
    with timed("capture", seconds, listener):
        captured = capture_pipeline(pipe)
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
        seconds=seconds,
        listener=listener,
        ranks=ranks,
    )
    return replace(result, statistics=stored)


@dataclass(frozen=True)
class Planning:
    """How statistics become a plan; see `passes.methods.analyze`."""

    method: Method
    policy: Policy | KeepLatency | None = None
    criterion: str | Sequence[str] | None = None
    compensation: Compensation | None = None
    sequential: int | None = None

    def __post_init__(self) -> None:
        if self.sequential is not None and self.method == "threshold" and self.compensation in (None, "none"):
            raise UsageError("--sequential solves for new weights: give --compensate with --method threshold")

    def check(self) -> None:
        """Refuse what can't be timed on this machine, before hours of calibration.

        Raises:
            ExportError: the runtime lacks something.
        """
        if isinstance(self.policy, KeepLatency):
            require(self.policy.backend)

    def for_pipeline(self, pipe: DiffusionPipeline, guidance: float | None) -> Planning:
        """Fill in what the pipeline says about the denoiser's calls."""
        if not isinstance(self.policy, KeepLatency) or self.policy.batch is not None:
            return self
        return replace(self, policy=replace(self.policy, batch=guided_batch(pipe, guidance)))

    @property
    def needs_moments(self) -> bool:
        """Whether calibration has to take second moments for it."""
        named = [self.criterion] if isinstance(self.criterion, str) else self.criterion or ()
        by_output = any(name in OUTPUT_CRITERIA for name in named)
        return self.method != "threshold" or self.compensation not in (None, "none") or by_output

    @property
    def needs_attention_weights(self) -> bool:
        """Whether calibration has to measure attention's weights for it."""
        return needs_attention_weights(self.criterion)


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
    seconds: dict[str, float] | None = None,
    listener: Listener = SILENT,
    ranks: Ranks = ALONE,
) -> SlimResult:
    """Plan from statistics, then carry the plan out."""
    seconds = {} if seconds is None else seconds
    program, sites = captured.program, captured.sites
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
    result = carry_out(captured, pipe, plan, check=check, seconds=seconds, listener=listener)
    if isinstance(planning.policy, KeepLatency):
        with timed("time", seconds, listener):
            latency = measure_latency(planning.policy, captured.program, plan, captured.model)
        result = replace(result, latency=latency)

    def replan(policy: Policy) -> SlimPlan:
        return plan_from(captured, statistics, replace(planning, policy=policy), planner=planner)

    return replace(result, analysis=analysis, replan=replan)


def plan_from(
    captured: CapturedDenoiser,
    statistics: Statistics,
    planning: Planning,
    listener: Listener = SILENT,
    planner: Planner | None = None,
) -> SlimPlan:
    """Plan from statistics, telling the listener how it goes on; a budget of latency is measured first."""
    policy, done = planning.policy, 0
    if isinstance(policy, KeepLatency):
        policy = measured_costs(
            policy,
            captured.program,
            captured.sites,
            narrow=RECIPES[planning.method].heads == "narrow",
            model=captured.model,
            listener=listener,
        )

    def on_site(number: int, total: int) -> None:
        nonlocal done
        listener.advance(number - done)
        done = number

    with listener.steps("plan", len(captured.sites), 0, "sites"):
        return analyze(
            captured.program,
            captured.sites,
            statistics,
            policy,
            planning.criterion,
            method=planning.method,
            compensation=planning.compensation,
            on_site=on_site,
            planner=planner,
        )


def carry_out(
    captured: CapturedDenoiser,
    pipe: DiffusionPipeline | None,
    plan: SlimPlan,
    *,
    check: bool = True,
    seconds: dict[str, float] | None = None,
    listener: Listener = SILENT,
) -> SlimResult:
    """Rewrite the program by a plan, validate it, and make the eager slim model and pipeline."""
    seconds = {} if seconds is None else seconds
    with timed("rewrite", seconds, listener):
        program = rewrite(captured.program, plan)
        model = make_slim(captured.model, plan)
    validation = None
    if check:
        with timed("validate", seconds, listener):
            validation = validate(captured.program, plan, program)
    slim_pipe = None
    if pipe is not None:
        # A shallow copy shares every component; registering replaces the denoiser in the copy alone.
        slim_pipe = copy.copy(pipe)
        slim_pipe.register_modules(**{denoiser_name(pipe): model})
    summary = summarize(captured.program, captured.sites, plan, tuple(find_unsupported(captured.program)))
    return SlimResult(plan, program, model, slim_pipe, summary, None, validation, seconds)
