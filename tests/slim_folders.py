"""Slim folders of a tiny pipeline, as `slim` and `apply` write them, from one calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from passes.plan.policies import MaxError, Policy, Threshold
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import Sampling
from slimdiff_fx.pipelines.trajectory import Sample
from slimdiff_fx.saved.compare import PICTURE_FILE, compare, picture_files, report_entries
from slimdiff_fx.saved.folder import save_result
from slimdiff_fx.saved.pictures import png_bytes, side_by_side
from slimdiff_fx.saved.report import build_report
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.measured_sweep import measure_sweep
from slimdiff_fx.slimming.planning import Planning
from slimdiff_fx.timing.bench import Effort

PROMPTS = ("red apple", "cat face", "pizza", "rose")
SAMPLING = Sampling(2, 3.0)
BRIEF = Effort(repeats=2, warmup=1, whole_seconds=0.01)


def build_slim_folders(pipeline: Path, folder: Path) -> dict[str, Path]:
    """Write "best" with a measured sweep, "threshold" without, and "applied", which has no calibration."""
    loaded = replace(load_pipeline(str(pipeline)), name="toy <pipeline>", sampling=SAMPLING)
    pipe = loaded.pipe
    captured = capture_pipeline(pipe)
    samples = [Sample(number, prompt) for number, prompt in enumerate(PROMPTS)]
    stored = observe_pipeline(pipe, captured, samples, CalibrationSettings(SAMPLING, batch=2, moments=True))
    policies: dict[str, Policy] = {"best": MaxError(1e-3), "threshold": Threshold(0.1)}
    for method, policy in policies.items():
        planning = Planning(method, policy)  # type: ignore[arg-type]
        result = Job(captured.program, captured.sites, captured, pipe, planning).finish(stored)
        comparison = compare(loaded, result, PROMPTS, 2, SAMPLING, 0)
        assert comparison is not None
        if method == "best":
            conditions = comparison.conditions
            measured = measure_sweep(pipe, captured.program, result, 2, conditions, SAMPLING, effort=BRIEF)
            result = replace(result, analysis={**(result.analysis or {}), "measured": measured})
        files = {**picture_files(comparison), PICTURE_FILE: png_bytes(side_by_side(comparison))}
        report = build_report(result, model=loaded.name, **report_entries(comparison, 0))
        save_result(result, folder / method, report=report, files=files)
        if method == "best":
            applied = Job(captured.program, captured.sites, captured, pipe, check=False).carry_out(result.plan)
            save_result(applied, folder / "applied", report=build_report(applied, model=loaded.name))
    return {name: folder / name for name in (*policies, "applied")}
