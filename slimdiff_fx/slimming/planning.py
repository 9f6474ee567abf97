"""How statistics become a plan: by which method, within which policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from diffusers import DiffusionPipeline

from passes.analyze.criteria import CRITERIA, choose, needs_attention_weights
from passes.analyze.methods import choose_method
from passes.analyze.refuse_unreachable import refuse_unreachable
from passes.analyze.sequential import check_rounds
from passes.arguments import check_kind
from passes.errors import UsageError
from passes.names import COMPENSATIONS, Compensation
from passes.plan.policies import Policy
from passes.solve.recipes import Method
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.inputs import check_timed_sizes
from slimdiff_fx.latency.target import guided_batch
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

    @classmethod
    def asked(
        cls,
        policy: Policy | KeepLatency | None,
        method: str | None,
        criterion: str | Sequence[str] | None,
        compensation: str | None,
        sequential: int | None = None,
    ) -> Planning:
        """Join what was asked; refuse what no model can be planned by, or timed on this machine, before any work.

        Raises:
            UsageError: an unknown policy, method, criterion or compensation, or what doesn't go together.
            ExportError: the runtime lacks something.
        """
        check_policy(policy)
        choose(criterion)
        chosen = choose_method(method, policy, criterion, compensation)
        known = next((name for name in COMPENSATIONS if name == compensation), None)
        if known != compensation:
            raise UsageError(f"unknown compensation {compensation!r}; there are {', '.join(COMPENSATIONS)}")
        planning = cls(chosen, policy, criterion, known, sequential)
        if isinstance(policy, KeepLatency):
            require(policy.backend)
        return planning

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
