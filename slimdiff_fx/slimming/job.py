"""The main job: each step once, in their order. The command line, `slim` and the stages are doors to it.

==============  ====================================================================================
step            what it does
==============  ====================================================================================
capture         rehearses a pipeline's call, and makes a graph of its denoiser
calibrate       watches the denoiser over a calibration set
plan            decides what stays
rewrite         cuts the graph, and the eager model beside it
prove           holds the slim graph against the masked dense one
carry_out       rewrites and proves by a plan, and puts the slim model into its pipeline
finish          does all that follows a calibration: plan, recalibrate, carry out, time
==============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from diffusers import DiffusionPipeline, ModelMixin

from passes.analyze.methods import analyze, planner_for
from passes.analyze.planner import Planner
from passes.analyze.sequential import solve_sequentially
from passes.analyze.thresholds import check_statistics
from passes.calibrate.calibrate import Batch, calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from passes.program.ownership import owned, sealed, share_tensors, weights_digest
from passes.program.program import Program
from passes.prove.validate import ValidationReport, validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_unsupported
from passes.sites.site import Site
from passes.solve.recipes import RECIPES
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.rehearse import rehearse
from slimdiff_fx.calibration.shared_plan import plan_of_rank_0
from slimdiff_fx.calibration.threads import choose_threads
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.denoisers.slim.reference import make_reference
from slimdiff_fx.files.statistics_file import StoredStatistics
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.outcome import measure_latency
from slimdiff_fx.latency.refine import plan_within_latency
from slimdiff_fx.listener import SILENT, Listener, timed
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_model, capture_pipeline, pipeline_with
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.saved.summary import summarize
from slimdiff_fx.slimming.planning import Planning
from slimdiff_fx.slimming.result import SlimResult
from slimdiff_fx.slimming.site_analysis import site_analysis

_DEFAULTS = CalibrationSettings()


@dataclass(frozen=True)
class Job:
    """A dense denoiser that is to be slimmed, and how.

    Attributes:
        program: the dense graph.
        sites: where units can be removed from it.
        captured: with the eager model that the graph is of; None where a graph is all that there is.
        pipe: the pipeline that it is of, if any.
        planning: how statistics become a plan; None where none is to be made.
        samples: what it is calibrated on.
        settings: how.
        check: compare the slim program with the masked dense one, and the eager slim model with the slim program.
        share: let slim model and program share one set of weights, with the dense model where it is as it was, and the
            slim pipeline its other parts with the dense one: for who hands none of the dense ones out.
        listener: told about stages and progress.
        seconds: what each stage took is added here.
    """

    program: Program
    sites: tuple[Site, ...] = ()
    captured: CapturedDenoiser | None = None
    pipe: DiffusionPipeline | None = None
    planning: Planning | None = None
    samples: Sequence[Sample] = ()
    settings: CalibrationSettings = _DEFAULTS
    check: bool = True
    share: bool = False
    listener: Listener = SILENT
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def capture(
        cls,
        dense: DiffusionPipeline | ModelMixin,
        planning: Planning | None = None,
        samples: Sequence[Sample] = (),
        settings: CalibrationSettings = _DEFAULTS,
        *,
        own_threads: bool = False,
        check: bool = True,
        share: bool = False,
        listener: Listener = SILENT,
    ) -> Job:
        """Capture a pipeline's denoiser or a bare one; where there are samples, the pipeline's call is rehearsed first.

        What is given becomes the attributes; the pipeline fills in what it says about the denoiser's calls. With
        `own_threads`, as many of torch's threads are set as the denoiser is fastest with.

        Raises:
            UsageError: the pipeline can't be called so, or the denoiser is of a class that can't be captured.
            CaptureError: it could not be captured.
        """
        pipe = dense if isinstance(dense, DiffusionPipeline) else None
        seconds: dict[str, float] = {}
        if pipe is not None and planning is not None:
            planning = planning.for_pipeline(pipe, settings.sampling.guidance)
        if pipe is not None and samples:
            rehearse(pipe, samples, settings)
            if own_threads:
                choose_threads(pipe, samples, settings)
        with timed("capture", seconds, listener):
            captured = capture_model(dense) if pipe is None else capture_pipeline(pipe)
        program, sites = captured.program, captured.sites
        return cls(program, sites, captured, pipe, planning, samples, settings, check, share, listener, seconds)

    def calibrate(self) -> StoredStatistics:
        """Watch the denoiser while its pipeline draws the samples.

        Raises:
            UsageError: the denoiser can't be planned by; see `Planning.check_captured`.
            SlimDiffError: see `slimdiff_fx.calibration.run.calibrate_pipeline`.
        """
        assert self.captured is not None
        assert self.pipe is not None
        if self.planning is not None:
            self.planning.check_captured(self.captured)
        with timed("calibrate", self.seconds):
            return observe_pipeline(self.pipe, self.captured, self.samples, self.settings, self.listener)

    def calibrate_on(self, batches: Iterable[Batch]) -> Statistics:
        """Watch a bare denoiser: its program's arguments are given."""
        assert self.captured is not None
        if self.planning is not None:
            self.planning.check_captured(self.captured)
        with timed("calibrate", self.seconds):
            watched = instrument(
                self.program,
                self.sites,
                attention_weights=self.settings.attention_weights,
                moments=self.settings.moments,
                weights=self.settings.timestep_weights,
            )
            return calibrate(watched, batches)

    def planner(self, statistics: Statistics) -> Planner | None:
        """Make what solves for weights, where something does: plans by several budgets share it."""
        planning = self._planning
        return planner_for(self.program, self.sites, statistics, planning.method, planning.compensation or "none")

    def plan(self, statistics: Statistics, planner: Planner | None = None) -> SlimPlan:
        """Decide what stays, telling the listener how it goes on; a budget of latency is measured first, then met.

        Raises:
            SlimDiffError: see `passes.analyze.methods.analyze`.
        """
        planning, policy = self._planning, self._planning.policy
        if planner is None and isinstance(policy, KeepLatency):
            check_statistics(self.program, self.sites, statistics)
            planner = self.planner(statistics)

        def plan_by(policy: Policy | None) -> SlimPlan:
            done = 0

            def on_site(number: int, total: int) -> None:
                nonlocal done
                self.listener.advance(number - done)
                done = number

            with self.listener.steps("plan", len(self.sites), 0, "sites"):
                return analyze(
                    self.program,
                    self.sites,
                    statistics,
                    policy,
                    planning.criterion,
                    method=planning.method,
                    compensation=planning.compensation,
                    on_site=on_site,
                    planner=planner,
                )

        if not isinstance(policy, KeepLatency):
            return plan_by(policy)
        return plan_within_latency(
            policy,
            self.program,
            self.sites,
            plan_by,
            narrow=RECIPES[planning.method].heads == "narrow",
            model=None if self.captured is None else self.captured.model,
            listener=self.listener,
        )

    def rewrite(self, plan: SlimPlan) -> tuple[Program, ModelMixin | None]:
        """Cut the graph by a plan, and the eager model where there is one; each owns its weights, unless they share."""
        with timed("rewrite", self.seconds, self.listener):
            program = rewrite(self.program, plan)
            model = None if self.captured is None else make_slim(self.captured.model, plan, share=self.share)
            if not self.share or model is None:
                return owned(program), model
            share_tensors(program.graph_module, model)
            return program, model

    def prove(self, plan: SlimPlan, slim: Program) -> tuple[Program, ValidationReport | None]:
        """Hold a slim program against the masked dense one, and seal what was proved; nothing is, without `check`.

        Raises:
            ValidationError: they aren't equal.
        """
        if not self.check:
            return slim, None
        validation = validate(self.program, plan, slim)
        return sealed(slim), validation

    def carry_out(self, plan: SlimPlan) -> SlimResult:
        """Rewrite by a plan, prove it, and make the eager slim model and pipeline."""
        assert self.captured is not None
        program, model = self.rewrite(plan)
        assert model is not None
        with timed("validate", self.seconds, self.listener) if self.check else nullcontext():
            program, validation = self.prove(plan, program)
            reference = make_reference(self.captured.inputs, program, model, check=self.check)
        slim_pipe = None if self.pipe is None else pipeline_with(self.pipe, model, share=self.share)
        summary = summarize(self.program, self.sites, plan, tuple(find_unsupported(self.program)))
        handed = plan if self.share else plan.copy()  # a planner keeps what it has solved for, to give it again
        return SlimResult(
            handed, program, model, slim_pipe, summary, None, validation, self.seconds, reference=reference
        )

    def finish(self, calibrated: StoredStatistics | Statistics, ranks: Ranks = ALONE) -> SlimResult:
        """Plan from a calibration, and carry the plan out.

        Args:
            calibrated: what `calibrate` or `calibrate_on` gave.
            ranks: processes that all come here, and are to carry out the same plan.
        """
        planning, dense_weights = self._planning, weights_digest(self.program.graph_module)
        stored = calibrated if isinstance(calibrated, StoredStatistics) else None
        statistics = calibrated.statistics if isinstance(calibrated, StoredStatistics) else calibrated
        with timed("analyze", self.seconds, self.listener):
            planner = self.planner(statistics)
            plan = self.plan(statistics, planner)
            analysis = site_analysis(self.program, self.sites, statistics, plan, planner, planning.criterion)
        if planning.sequential is not None:
            with timed("recalibrate", self.seconds):
                plan = solve_sequentially(
                    self.program,
                    self.sites,
                    plan,
                    statistics,
                    self._recalibrate,
                    planning.sequential,
                    planning.compensation or "lstsq",
                    as_published=not RECIPES[planning.method].joint,
                )
        if ranks.several:
            plan = plan_of_rank_0(plan, ranks)
        result = replace(self.carry_out(plan), statistics=stored, analysis=analysis)
        if isinstance(planning.policy, KeepLatency):
            assert self.captured is not None
            with timed("time", self.seconds, self.listener):
                latency = measure_latency(planning.policy, self.program, plan, self.captured.model)
            result = replace(result, latency=latency)
        again = Job(self.program, self.sites, self.captured)  # which keeps no pipeline alive

        def replan(policy: Policy) -> SlimPlan:
            if weights_digest(again.program.graph_module) != dense_weights:
                raise UsageError("the dense model's weights have changed since it was calibrated; slim it anew")
            return replace(again, planning=replace(planning, policy=policy)).plan(statistics, planner).copy()

        return replace(result, replan=replan)

    @property
    def _planning(self) -> Planning:
        assert self.planning is not None
        return self.planning

    def _recalibrate(self, program: Program, sites: tuple[Site, ...]) -> Statistics:
        """Calibrate another program of the same inputs in the denoiser's place, in this process alone."""
        assert self.captured is not None
        assert self.pipe is not None
        captured = replace(self.captured, program=program, sites=sites)
        settings = replace(self.settings, checkpoint=None, resume=False, ranks=ALONE)
        return observe_pipeline(self.pipe, captured, self.samples, settings, self.listener).statistics
