"""How statistics become a plan: by which method, within which policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from diffusers import DiffusionPipeline

from passes.analyze.criteria import CRITERIA, choose, needs_attention_weights
from passes.analyze.methods import RECIPES, Method, analyze
from passes.analyze.planner import Planner
from passes.analyze.refuse_unreachable import refuse_unreachable
from passes.analyze.sequential import check_rounds
from passes.arguments import check_kind
from passes.calibrate.statistics import Statistics
from passes.errors import UsageError
from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from passes.solve.compensation import COMPENSATIONS, Compensation
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.inputs import check_timed_sizes
from slimdiff_fx.latency.refine import plan_within_latency
from slimdiff_fx.latency.target import guided_batch
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.option_checks import check_count
from slimdiff_fx.pipelines.captured import CapturedDenoiser
from slimdiff_fx.timing.runtimes import require


def check_policy(policy: object) -> None:
    """Refuse what is no policy; None is as much as the default error allows.

    Raises:
        UsageError: says what there is.
    """
    if policy is None:
        return
    number = policy if isinstance(policy, float) and 0 < policy < 1 else 0.9
    check_kind(
        "policy", policy, (*get_args(Policy), KeepLatency), f"a policy, such as slimdiff_fx.KeepParams({number:g})"
    )


@dataclass(frozen=True)
class Planning:
    """How statistics become a plan; see `passes.analyze.methods.analyze`."""

    method: Method
    policy: Policy | KeepLatency | None = None
    criterion: str | Sequence[str] | None = None
    compensation: Compensation | None = None
    sequential: int | None = None

    def __post_init__(self) -> None:
        if self.sequential is None:
            return
        if self.method == "threshold" and self.compensation in (None, "none"):
            raise UsageError('`sequential` solves for new weights: give `compensation` with `method="threshold"`')
        check_count("sequential", self.sequential, least=2)

    def check(self) -> None:
        """Refuse what no model can be planned by, or timed on this machine: before anything is done.

        Raises:
            UsageError: an unknown policy, criterion or compensation.
            ExportError: the runtime lacks something.
        """
        check_policy(self.policy)
        if self.compensation not in (None, *COMPENSATIONS):
            raise UsageError(f"unknown compensation {self.compensation!r}; there are {', '.join(COMPENSATIONS)}")
        choose(self.criterion)
        if isinstance(self.policy, KeepLatency):
            require(self.policy.backend)

    def check_captured(self, captured: CapturedDenoiser) -> None:
        """Refuse what this denoiser can't be planned by: known from its shapes, before hours of calibration.

        Raises:
            UsageError: no sites, more groups than sites, or the graph doesn't hold for the sizes that are to be timed.
            BudgetError: the smallest size of each site is still more than the budget.
        """
        if not captured.sites:
            raise UsageError(
                f"{type(captured.model).__name__} has no site that units can be removed from; "
                "`slimdiff-fx inspect` says why"
            )
        if self.sequential is not None:
            check_rounds(self.sequential, captured.sites)
        if isinstance(self.policy, KeepLatency):
            check_timed_sizes(captured.program, self.policy)
        refuse_unreachable(captured.program, captured.sites, self.policy, self.method)

    def for_pipeline(self, pipe: DiffusionPipeline, guidance: float | None) -> Planning:
        """Fill in what the pipeline says about the denoiser's calls."""
        if not isinstance(self.policy, KeepLatency) or self.policy.batch is not None:
            return self
        return replace(self, policy=replace(self.policy, batch=guided_batch(pipe, guidance)))

    @property
    def needs_moments(self) -> bool:
        """Whether calibration has to take second moments for it."""
        by_output = any(CRITERIA[name].needs == "moments" for name in choose(self.criterion).values())
        return self.method != "threshold" or self.compensation not in (None, "none") or by_output

    @property
    def needs_attention_weights(self) -> bool:
        """Whether calibration has to measure attention's weights for it."""
        return needs_attention_weights(self.criterion)


def plan_from(
    captured: CapturedDenoiser,
    statistics: Statistics,
    planning: Planning,
    listener: Listener = SILENT,
    planner: Planner | None = None,
) -> SlimPlan:
    """Plan from statistics, telling the listener how it goes on; a budget of latency is measured first, then met."""
    policy = planning.policy

    def plan_by(policy: Policy | None) -> SlimPlan:
        done = 0

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

    if not isinstance(policy, KeepLatency):
        return plan_by(policy)
    return plan_within_latency(
        policy,
        captured.program,
        captured.sites,
        plan_by,
        narrow=RECIPES[planning.method].heads == "narrow",
        model=captured.model,
        listener=listener,
    )
