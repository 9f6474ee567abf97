"""The compiler's stages in the words of PT2E: capture, prepare, calibrate, analyze, convert, lower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from passes.arguments import check_kind
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import TIMESTEPS, Instrumented, instrument
from passes.capture.lower import lower
from passes.errors import CalibrationError
from passes.names import Compensation
from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.solve.recipes import Method
from slimdiff_fx.denoisers.families import DenoiserInputs, capture_denoiser, capture_inputs
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.planning import Planning

__all__ = ["analyze", "calibrate", "capture", "convert", "lower", "prepare"]


def capture(model: nn.Module, inputs: DenoiserInputs | None = None, **sizes: Any) -> Program:
    """Capture a denoiser as a graph that shares its weights.

    Examples:
        >>> program = slimdiff_fx.capture(unet)
        >>> program(*inputs).shape
        torch.Size([2, 4, 8, 8])

    Args:
        model: a diffusers denoiser.
        inputs: how it is called, from `slimdiff_fx.denoisers.families.describe`; found by the model's class if None.
        sizes: example sizes for that: batch, height, width, tokens, seed.

    Raises:
        UsageError: no module, or of a class that isn't supported.
        CaptureError: it can't be captured.
    """
    check_kind("model", model, nn.Module, "a diffusers denoiser, such as pipe.unet or pipe.transformer")
    if inputs is None:
        return capture_denoiser(model, **sizes)
    return capture_inputs(inputs)


def prepare(
    program: Program, *, timesteps: float = TIMESTEPS, moments: bool = True, attention_weights: bool = False
) -> Instrumented:
    """Put observers at every site; predictions stay bitwise the same.

    Examples:
        >>> prepared = slimdiff_fx.prepare(program)
        >>> torch.equal(prepared(*inputs), program(*inputs))
        True

    Args:
        program: the dense program; it is left as it is.
        timesteps: the scheduler's range, [0, timesteps).
        moments: take second moments, which every method but "threshold" needs.
        attention_weights: measure what the criteria "entropy" and "confidence" need.

    Raises:
        UsageError: something else than a program.
    """
    check_kind("program", program, Program, "the program that slimdiff_fx.capture gives")
    return instrument(
        program, find_sites(program), timesteps=timesteps, moments=moments, attention_weights=attention_weights
    )


def analyze(
    prepared: Instrumented,
    *,
    method: Method | None = None,
    policy: Policy | KeepLatency | None = None,
    criterion: str | Sequence[str] | None = None,
    compensation: Compensation | None = None,
) -> SlimPlan:
    """Decide what stays, from what the observers saw.

    Examples:
        >>> plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepParams(0.95))
        >>> site = plan.sites["down_blocks.0.attentions.0.transformer_blocks.0.ff.net"]
        >>> len(site.kept) <= site.units
        True

    Args:
        prepared: after calibration.
        method: see `passes.analyze.methods`; "best" unless a threshold or a criterion is given.
        policy: as much as `MaxError()` allows if None. A `KeepLatency` times the graph: `slimdiff_fx.slim` times the
            eager model, where the runtime runs that.
        criterion: for "threshold", see `passes.analyze.criteria`.
        compensation: for "threshold": "none", "bias" or "lstsq".

    Raises:
        UsageError: something else than an instrumented program, or than a policy.
        CalibrationError: nothing was observed yet.
        BudgetError: the budget can't be met; says the least that can.
    """
    check_kind("prepared", prepared, Instrumented, "what slimdiff_fx.prepare(program) gives, after calibration")
    planning = Planning.asked(policy, method, criterion, compensation)
    statistics = prepared.statistics()
    if not statistics.calls:
        raise CalibrationError("nothing was observed yet; run slimdiff_fx.calibrate(prepared, batches) first")
    return Job(prepared.dense, prepared.sites, planning=planning).plan(statistics)


def convert(program: Program, plan: SlimPlan, *, check: bool = True) -> Program:
    """Rewrite the program by the plan, and prove the result equal to the masked dense program.

    Examples:
        >>> slim = slimdiff_fx.convert(program, plan)
        >>> slim(*inputs).shape == program(*inputs).shape
        True

    Args:
        program: the dense program.
        plan: made for it.
        check: compare slim with masked dense; leave it on.

    Returns:
        The slim program. It owns its weights: neither `program`, its model nor the plan changes with it.

    Raises:
        UsageError: something else than a program and a plan.
        PlanError: the plan is of another model.
        CouplingError: a removal would reach beyond its site.
        ValidationError: the result isn't equal.
    """
    check_kind("program", program, Program, "the program that slimdiff_fx.capture gives")
    check_kind("plan", plan, SlimPlan, "the plan that slimdiff_fx.analyze gives")
    job = Job(program, check=check)
    slim, _ = job.rewrite(plan)
    return job.prove(plan, slim)[0]
