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
    """What slimming gave; `slimdiff_fx.SlimResult` adds what can be done with it.

    Model and pipeline, program and plan own their weights: changing one changes no other, nor the dense model. Only
    `pipe` holds `model` itself; and with `in_place` model and program share one set.

    Attributes:
        plan: which units stay.
        program: the slim graph.
        model: the slim eager model.
        pipe: the pipeline with the slim model in it, or None when a bare model was slimmed. Its other components are
            copies of the dense pipeline's, or with `in_place` the same.
        summary: what was there and what stays, site by site.
        statistics: what calibration saw.
        validation: how far slim is from masked dense; None if it was switched off.
        seconds: wall time of each stage.
        latency: of dense and slim in turn, where latency was the budget.
        analysis: what the plan was made from, see `slimdiff_fx.slimming.site_analysis`; None where a given plan was
            carried out.
        reference: what the slim model predicted when it was made; a saved folder is held against it.
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
    reference: Reference | None = field(default=None, compare=False)
