"""What decides the sums of a calibration, written down so that another run can be told from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from passes.errors import UsageError
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.option_checks import check_count, check_seed
from slimdiff_fx.pipelines.inputs.samples import one_round
from slimdiff_fx.pipelines.sampling import Sampling, step_count
from slimdiff_fx.pipelines.trajectory import Sample

# More would make the record larger than the header of a safetensors file may be.
MOST_LISTED = 10_000


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        sampling: steps and guidance.
        observe_steps: steps of each trajectory to observe; None for all.
        seed: of noise, choice of prompts, steps and timesteps.
        batch: samples a pipeline call.
        checkpoint: file to keep the state in while running, see `slimdiff_fx.calibration.checkpoint`; None keeps none.
        resume: continue from `checkpoint`, if there is one.
        moments: take second moments; every method but `threshold` needs them.
        timestep_weights: how much tokens count in them, one number for each timestep bucket; None weighs all alike.
        moments_folder: keep them in files there, see `slimdiff_fx.calibration.disk_sums`; in memory if None.
        attention_weights: measure entropy and confidence of attention, which the criteria of these names need.
        ranks: the processes that share the batches, see `slimdiff_fx.calibration.ranks`.
    """

    sampling: Sampling = Sampling()
    observe_steps: int | None = None
    seed: int = 0
    batch: int = 16
    checkpoint: Path | None = None
    resume: bool = False
    moments: bool = True
    timestep_weights: tuple[float, ...] | None = None
    moments_folder: Path | None = None
    attention_weights: bool = False
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        check_count("batch", self.batch)
        check_count("observe_steps", self.observe_steps)
        check_seed("seed", self.seed)
        if self.resume and self.checkpoint is None:
            raise UsageError("nothing to resume from: name the checkpoint file")


def describe_run(pipe: DiffusionPipeline, samples: Sequence[Sample], settings: CalibrationSettings) -> dict[str, Any]:
    """Write down everything that decides the statistics, as JSON values: only runs with equal records share sums.

    Of very many samples that go round a shorter list, the record holds that list once; of a very long list, it holds
    the beginning and a digest.
    """
    listed = samples if len(samples) <= MOST_LISTED else one_round(samples)
    conditions = [sample.condition for sample in listed]
    images = [str(sample.image.file.name) for sample in listed if sample.image is not None]
    return {
        "pipeline": type(pipe).__name__,
        "scheduler": {"class": type(pipe.scheduler).__name__, **_plain(dict(pipe.scheduler.config))},
        "samples": len(samples),
        "source": "images" if samples[0].from_picture else "trajectory",
        **_listed("conditions", conditions),
        **_listed("images", images),
        "steps": step_count(pipe, settings.sampling),
        "guidance": settings.sampling.guidance,
        "observe_steps": settings.observe_steps,
        "seed": settings.seed,
        "batch": settings.batch,
        "moments": settings.moments,
        "attention_weights": settings.attention_weights,
        "timestep_weights": settings.timestep_weights and list(settings.timestep_weights),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": pipe.device.type if settings.ranks.several else str(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        **({"ranks": settings.ranks.world} if settings.ranks.several else {}),
    }


def _listed(name: str, values: list[str]) -> dict[str, Any]:
    if len(values) <= MOST_LISTED:
        return {name: values}
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return {name: values[:MOST_LISTED], f"distinct_{name}": len(set(values)), f"{name}_sha256": digest}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return {
        key: value if isinstance(value, bool | int | float | str | None) else repr(value) for key, value in kept.items()
    }
