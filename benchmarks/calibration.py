"""How much slower than drawing is calibrating? The same pipeline, prompts and batch, in turn, in one run.

python -m benchmarks.calibration [MODEL]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import DiffusionPipeline
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, Timing, interleave, machine, paired_ratio, write_result
from passes.calibrate.instrument import Closing, Instrumented, Opening
from passes.calibrate.observers import UnitObserver
from passes.calibrate.statistics import COUNT, Statistics
from passes.errors import SlimDiffError, UsageError
from slimdiff_fx.calibration.observe import watch_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.other_libraries import quiet_pipeline
from slimdiff_fx.pipelines.captured import CapturedDenoiser, capture_pipeline
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import call_pipeline, noise_generator
from slimdiff_fx.pipelines.trajectory import Sample, observe_batch

SAMPLING, LIGHT, MOMENTS, SAMPLED, BFLOAT16 = "sampling", "light", "moments", "sampled steps", "bfloat16"
COMPILED = "compiled"


def measure_calibration(
    model: str,
    *,
    batch: int = 16,
    steps: int = 10,
    observe_steps: int = 3,
    with_compiled: bool = False,
    repeats: int = 7,
    warmup: int = 1,
    min_seconds: float = 0.0,
) -> dict[str, Any]:
    """Time one batch of calibration, in each of its forms, against drawing the same batch.

    Args:
        model: pipeline folder, hub id or "emoji".
        batch: samples.
        steps: denoising steps of each.
        observe_steps: of which so many are observed in "sampled steps"; drawing ends behind the last of them.
        with_compiled: compile the watched graph too, which takes minutes.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: time at least to spend on each.

    Returns:
        the result as JSON values: for each form samples a second, and as `of_sampling` the median of the rounds' own
        ratios of its samples a second to those of drawing, by wall time and by processor time; for other precisions
        and compiled graphs also how far their statistics are from those of "moments".

    Raises:
        SlimDiffError: the model can't be loaded or captured, or has no sites.
    """
    record = machine()
    loaded = load_pipeline(model)
    sampling = loaded.sampling.given(steps, None)
    samples = gather_samples(loaded.pipe, prompts=None, images=None, samples=batch, seed=0, folder=loaded.folder)
    settings = CalibrationSettings(sampling, batch=batch)
    half = load_pipeline(model, dtype=BFLOAT16).pipe
    captured = capture_pipeline(loaded.pipe)
    forms = {
        LIGHT: _Form(loaded.pipe, captured, samples, replace(settings, moments=False)),
        MOMENTS: _Form(loaded.pipe, captured, samples, settings),
        SAMPLED: _Form(loaded.pipe, captured, samples, replace(settings, observe_steps=observe_steps)),
        BFLOAT16: _Form(half, capture_pipeline(half), samples, settings),
    }
    if with_compiled:
        forms[COMPILED] = _Form(loaded.pipe, captured, samples, settings, compiled=True)
    contestants: dict[str, Callable[[], Any]] = {
        SAMPLING: lambda: _draw(loaded.pipe, samples, settings),
        f"{SAMPLING}, {BFLOAT16}": lambda: _draw(half, samples, settings),
        **forms,
    }
    deviations = _deviations(forms)
    clocked = {name: _Clocked(run) for name, run in contestants.items()}
    timings = interleave(clocked, repeats=repeats, warmup=warmup, min_seconds=min_seconds)
    processor = {name: Timing(tuple(clock.seconds[warmup:])) for name, clock in clocked.items()}
    return {
        "benchmark": "calibration",
        "model": model,
        "batch": batch,
        "steps": steps,
        "observe_steps": observe_steps,
        "machine": record,
        "forms": {
            name: {
                "samples_per_second": round(batch / timing.median, 4),
                "of_sampling": round(1 / paired_ratio(timing, timings[SAMPLING]), 4),
                "of_sampling_by_processor_time": round(1 / paired_ratio(processor[name], processor[SAMPLING]), 4),
                **timing.to_dict(),
                **deviations.get(name, {}),
            }
            for name, timing in timings.items()
        },
    }


class _Form:
    """One way to calibrate; calling it runs a batch."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        captured: CapturedDenoiser,
        samples: tuple[Sample, ...],
        settings: CalibrationSettings,
        *,
        compiled: bool = False,
    ) -> None:
        self._pipe, self._samples, self._settings = pipe, samples, settings
        self.watched, self._observed = watch_pipeline(pipe, captured, settings)
        if compiled:
            _compile(self.watched)

    def __call__(self) -> None:
        observe_batch(
            self._pipe,
            self._observed,
            self._samples,
            self._settings.sampling,
            seed=self._settings.seed,
            observe_steps=self._settings.observe_steps,
        )
        self.watched.statistics(copy=False)  # as calibration does after each batch: adds what waits

    def statistics(self) -> Statistics:
        """Give the sums of one batch."""
        self.watched.reset()
        self()
        return self.watched.statistics()


def _compile(watched: Instrumented) -> None:
    """Compile a watched graph between its observers, which run as they are: what they do can't be traced."""
    for module in watched.program.graph_module.modules():
        if isinstance(module, UnitObserver | Opening | Closing):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    watched.program.graph_module.compile()


def _draw(pipe: DiffusionPipeline, samples: tuple[Sample, ...], settings: CalibrationSettings) -> None:
    """Draw the batch as calibration has it drawn: to latents, with the same noise."""
    generators = [noise_generator(settings.seed, sample.number) for sample in samples]
    conditions = [sample.condition for sample in samples]
    with quiet_pipeline(pipe):
        call_pipeline(pipe, conditions, generators, settings.sampling, output_type="latent")


class _Clocked:
    """Takes processor time of all threads beside what `interleave` takes: a busy machine disturbs it less."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self.seconds: list[float] = []

    def __call__(self) -> None:
        start = time.process_time()
        self._run()
        self.seconds.append(time.process_time() - start)


def _deviations(forms: Mapping[str, _Form]) -> dict[str, dict[str, float]]:
    exact = forms[MOMENTS].statistics()
    others = {name: form.statistics() for name, form in forms.items() if name in (BFLOAT16, COMPILED)}
    return {
        name: {
            "median_deviation_of_means": _median_deviation(exact, other),
            "deviation_of_moments": max(
                float((other.moments[site][key] - values).norm() / values.norm())
                for site, sums in exact.moments.items()
                for key, values in sums.items()
            ),
        }
        for name, other in others.items()
    }


def _median_deviation(exact: Statistics, other: Statistics) -> float:
    """Give the median over all units and statistics of |their mean's change| over their mean."""
    changes = [
        (other.mean(site, name) / exact.mean(site, name) - 1).abs()
        for site, sums in exact.sites.items()
        for name in sums
        if name != COUNT
    ]
    return float(torch.cat(changes).nanmedian())


def main(
    model: Annotated[str, typer.Argument(help="Pipeline folder, hub id or `emoji`.")] = "emoji",
    batch: Annotated[int, typer.Option(help="Samples in one pipeline call.")] = 16,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 10,
    observe_steps: Annotated[int, typer.Option(help="Steps observed where steps are sampled.")] = 3,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the watched graph too.")] = False,
    repeats: Annotated[int, typer.Option(help="Rounds at least.")] = 7,
    warmup: Annotated[int, typer.Option(help="Rounds not counted.")] = 1,
    min_seconds: Annotated[float, typer.Option(help="Time at least to spend on each.")] = 10.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON.")] = RESULTS,
) -> None:
    """Time calibration against drawing, in turn."""
    console = Console()
    try:
        if threads:
            torch.set_num_threads(threads)
        result = measure_calibration(
            model,
            batch=batch,
            steps=steps,
            observe_steps=observe_steps,
            with_compiled=compile,
            repeats=repeats,
            warmup=warmup,
            min_seconds=min_seconds,
        )
    except SlimDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    table = Table("", "samples/s", "of sampling", "by processor time", "statistics' deviation")
    for name, form in result["forms"].items():
        deviation = form.get("median_deviation_of_means")
        table.add_row(
            name,
            f"{form['samples_per_second']:.2f}",
            f"{form['of_sampling']:.3f}",
            f"{form['of_sampling_by_processor_time']:.3f}",
            "" if deviation is None else f"{deviation:.1e}",
        )
    console.print(table)
    console.print(f"written to {write_result('calibration', result, output)}")


if __name__ == "__main__":
    typer.run(main)
