"""The facts of a slimmed model, as the saved folder, its report and its page take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin

from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.validate import ValidationReport
from slimdiff_fx.denoisers.slim.reference import Reference
from slimdiff_fx.files.statistics_file import StoredStatistics
from slimdiff_fx.latency.outcome import Latency
from slimdiff_fx.saved.summary import Summary


@dataclass(frozen=True, repr=False)
class Slimmed:
    """What slimming gave; `slimdiff_fx.SlimResult` says what each is, and adds what can be done with them."""

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
    reference: Reference | None = field(default=None, compare=False)
