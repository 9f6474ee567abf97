"""The options of a calibration, and what every command that calibrates does with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from passes.errors import UsageError
from passes.plan.policies import Policy
from slimdiff_fx.calibration.checkpoint import find_checkpoint
from slimdiff_fx.calibration.ranks import Ranks
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.timestep_weights import bucket_weights
from slimdiff_fx.commands.command_outputs import note_edited
from slimdiff_fx.commands.terminal import TerminalListener
from slimdiff_fx.files.output_paths import expand
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.option_checks import check_count, check_number, check_seed
from slimdiff_fx.pipelines.inputs.prompts import read_prompts
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import LoadedPipeline, load_pipeline, model_input
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.planning import Planning


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """The options of calibration, as the user gave them."""

    prompts: Path | None
    images: Path | None
    samples: int
    steps: int | None
    observe_steps: int | None
    guidance: float | None
    seed: int
    batch: int
    device: str
    dtype: str
    resume: bool
    moments: bool = True
    timestep_weights: str = "uniform"
    moments_folder: Path | None = None
    calibrate_on: str | None = None
    attention_weights: bool = False
    variant: str | None = None

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        check_count("steps", self.steps)
        check_count("observe_steps", self.observe_steps)
        check_count("batch", self.batch)
        check_number("guidance", self.guidance)
        check_seed("seed", self.seed)

    def inputs(self, model: str) -> dict[str, Path | None]:
        """Give what is read, by option; see `slimdiff_fx.commands.command_outputs`.

        Raises:
            UsageError: prompts and pictures are given.
        """
        if self.prompts is not None and self.images is not None:
            raise UsageError("prompts and images are given together; give one of them")
        return {"MODEL": model_input(model), "--prompts": self.prompts, "--images": self.images}

    def settings(self, loaded: LoadedPipeline, checkpoint: Path, ranks: Ranks) -> CalibrationSettings:
        """Join them with the defaults that came with the pipeline."""
        sampling = loaded.sampling.given(self.steps, self.guidance)
        return CalibrationSettings(
            sampling,
            self.observe_steps,
            self.seed,
            self.batch,
            checkpoint,
            self.resume,
            self.moments,
            bucket_weights(self.timestep_weights),
            self.moments_folder,
            self.attention_weights,
            ranks,
        )


def load(model: str, device: str, dtype: str, listener: Listener, variant: str | None) -> LoadedPipeline:
    """Load MODEL, and say so."""
    with listener.stage("load"):
        loaded = load_pipeline(model, device=device, dtype=dtype, variant=variant)
    note_edited(loaded.edited, listener)
    return loaded


def listener_for(console: Console, ranks: Ranks, stages: Sequence[str] = ()) -> Listener:
    """Give what tells a terminal of progress; of several ranks only the first tells."""
    return TerminalListener(console, stages) if ranks.rank == 0 else SILENT


def capture(
    loaded: LoadedPipeline,
    options: CalibrationOptions,
    prompts: Sequence[str] | None,
    checkpoint: Path,
    listener: Listener,
    ranks: Ranks,
    planning: Planning | None = None,
) -> Job:
    """Capture a pipeline's denoiser as a job that can be calibrated, and planned where there is a `planning`."""
    settings = options.settings(loaded, checkpoint, ranks)
    samples = gather_samples(
        loaded.pipe,
        prompts=prompts,
        images=options.images,
        samples=options.samples,
        seed=options.seed,
        listener=listener,
        folder=loaded.folder,
        calibrate_on=options.calibrate_on,
    )
    if options.resume and not find_checkpoint(checkpoint, ranks):
        listener.note(f"there is no checkpoint at {checkpoint}: starting anew")
    return Job.capture(loaded.pipe, planning, samples, settings, own_threads=True, share=True, listener=listener)


def prompts_of(file: Path | None, ranks: Ranks) -> tuple[str, ...] | None:
    """Read a list of prompts.

    Raises:
        UsageError: it is none, or several ranks would read what can be read once.
    """
    if file is None:
        return None
    if ranks.several and not file.is_file():
        raise UsageError(f"each rank reads the prompts, and {file} can be read once; write them to a file")
    return read_prompts(file)


def cache_of(policy: Policy | KeepLatency | None) -> Path | None:
    """Give the file that measured latencies are kept in, if one was named."""
    return expand(policy.cache) if isinstance(policy, KeepLatency) and policy.cache is not None else None


def slim_checkpoint(out: Path) -> Path:
    """Name the file that keeps the state of `slim`'s calibration."""
    return _beside(out, ".calibration.safetensors")


def calibrate_checkpoint(out: Path) -> Path:
    """Name the file that keeps the state of `calibrate`."""
    return _beside(out, ".checkpoint")


def _beside(out: Path, ending: str) -> Path:
    return out.absolute().parent / f"{out.name}{ending}"
