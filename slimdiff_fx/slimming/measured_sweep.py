"""Error and latency at several sizes, measured: each is solved for, built and run beside the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline

from passes.errors import UsageError
from passes.plan.policies import KeepParams, Threshold
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.latency.target import Target, guided_batch, make_target
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.pipelines.prediction_error import measured_error
from slimdiff_fx.pipelines.sampling import Given, Sampling, denoiser_name, draw, nothing_more
from slimdiff_fx.slimming.result import SlimResult
from slimdiff_fx.timing.bench import Effort, opened
from slimdiff_fx.timing.interleave import paired_ratio

_LARGEST = 0.9  # of the sites' weights gone, at the far end


def measure_sweep(
    pipe: DiffusionPipeline,
    program: Program,
    result: SlimResult,
    count: int,
    conditions: Sequence[str],
    sampling: Sampling,
    *,
    seed: int = 0,
    backend: str = "eager",
    effort: Effort | None = None,
    given: Given = nothing_more,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Measure plans of other sizes than the one that was chosen, from the same calibration, and that one too.

    Args:
        pipe: the dense pipeline.
        program: its denoiser's.
        result: what slimming it gave; not of `carry_out` alone.
        count: how many other sizes, evenly spread over what can go.
        conditions: what the dense model draws while the slim ones predict beside it.
        sampling: steps and guidance.
        seed: of the noise.
        backend: the runtime that is timed.
        effort: how long it is timed.
        given: what else drawing takes, see `slimdiff_fx.pipelines.sampling.draw`.
        listener: told about progress.

    Returns:
        JSON values: "points", each with "at" (tau, or the share of parameters asked to stay; None for the chosen
        plan), "params", "macs", "relative_mse", "latency_ratio", "dense_ms", "slim_ms"; and how it was measured.

    Raises:
        UsageError: the result holds no analysis to take other sizes from.
    """
    if result.analysis is None or result.replan is None:
        raise UsageError("a plan that was given has no sweep to measure; slim anew, from a calibration")
    dense = getattr(pipe, denoiser_name(pipe))
    threads = torch.get_num_threads()
    batch = guided_batch(pipe, sampling.guidance)
    sweep = result.analysis["sweep"]
    chosen: list[dict[str, Any]] = _spread(sweep["points"], result.summary.site_params, count)
    counted = {"at": None, "params": result.summary.params_kept, "macs": result.summary.macs_kept}
    points = []
    with listener.steps("sweep", len(chosen) + 1, 0, "sizes"), opened(backend, threads, effort) as bench:
        target = make_target(program, dense, {"batch": batch})
        whole = bench.ready(target.whole("dense"))
        for point in (counted, *chosen):
            plan = result.plan
            if point is not counted:
                budget = KeepParams(point["at"], uniform=bool(result.plan.policy.get("uniform")))
                plan = result.replan(Threshold(point["at"]) if sweep["by"] == "tau" else budget)
            error = _error(pipe, target, plan, conditions, sampling, seed, given)
            timings = bench.whole({"dense": whole, "slim": bench.ready(target.whole("slim", plan))})
            points.append(
                {
                    **{name: point[name] for name in ("at", "params", "macs")},
                    "relative_mse": error,
                    "latency_ratio": round(paired_ratio(timings["slim"], timings["dense"]), 4),
                    "dense_ms": round(timings["dense"].median * 1e3, 3),
                    "slim_ms": round(timings["slim"].median * 1e3, 3),
                }
            )
            listener.advance(1)
        return {
            "points": points,
            "pictures": len(conditions),
            "backend": backend,
            "threads": threads,
            "clock": bench.clock,
            "batch": batch,
        }


def _spread(points: Sequence[dict[str, Any]], removable: int, count: int) -> list[dict[str, Any]]:
    """Choose points so that the shares of the sites' weights that are gone are evenly spread."""
    whole = points[0]["params"]
    chosen: dict[float, dict[str, Any]] = {}
    for number in range(1, count + 1):
        share = _LARGEST * number / count
        nearest = min(points[1:], key=lambda point: abs((whole - point["params"]) / removable - share))
        chosen[nearest["at"]] = nearest
    return list(chosen.values())


def _error(
    pipe: DiffusionPipeline,
    target: Target,
    plan: SlimPlan,
    conditions: Sequence[str],
    sampling: Sampling,
    seed: int,
    given: Given,
) -> float | None:
    assert target.model is not None
    with measured_error(pipe, make_slim(target.model, plan, share=True)) as error:
        draw(pipe, conditions, seed, sampling, given=given)
    return error.relative_mse
