"""How far a slim denoiser's prediction is from the dense one's, along the dense trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality.arena import Arena
from slimdiff_fx.other_libraries import quiet_pipeline
from slimdiff_fx.pipelines.sampling import call_pipeline, noise_generator

_STEPS = 25
_BATCH = 16


@dataclass(frozen=True)
class DenseCall:
    """One call of the dense denoiser in its pipeline, guidance included: arguments and prediction."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timestep: int
    prediction: Tensor


def record_trajectory(arena: Arena, captions: tuple[str, ...], seed: int) -> list[DenseCall]:
    """Draw held-out captions with the dense pipeline, and keep its denoiser's calls at a few timesteps."""
    pipe = arena.loaded.pipe
    denoiser = pipe.unet
    plain = denoiser.forward
    kept = {round(at * (_STEPS - 1) / (arena.scale.timesteps - 1)) for at in range(arena.scale.timesteps)}
    calls: list[DenseCall] = []
    step = 0

    def forward(sample: Tensor, timestep: Tensor, **kwargs: Any) -> tuple[Tensor]:
        nonlocal step
        prediction: Tensor = plain(sample, timestep, **{**kwargs, "return_dict": False})[0]
        if step in kept:
            calls.append(DenseCall((sample.clone(), timestep), kwargs, int(timestep), prediction.clone()))
        step += 1
        return (prediction,)

    denoiser.forward = forward
    try:
        for start in range(0, len(captions), _BATCH):
            step, part = 0, captions[start : start + _BATCH]
            noise = [noise_generator(seed, start + offset) for offset in range(len(part))]
            sampling = arena.loaded.sampling.given(_STEPS, None)
            with quiet_pipeline(pipe):
                call_pipeline(pipe, part, noise, sampling, output_type="latent")
    finally:
        del denoiser.forward
    return calls


def prediction_error(model: nn.Module, calls: list[DenseCall]) -> tuple[float, dict[int, float]]:
    """Measure Σ‖slim − dense‖² / Σ‖dense‖², in all and by timestep."""
    errors: dict[int, float] = {}
    energies: dict[int, float] = {}
    for call in calls:
        with torch.no_grad():
            prediction = model(*call.args, **{**call.kwargs, "return_dict": False})[0]
        lost = float((prediction - call.prediction).double().square().sum())
        errors[call.timestep] = errors.get(call.timestep, 0.0) + lost
        energies[call.timestep] = energies.get(call.timestep, 0.0) + float(call.prediction.double().square().sum())
    by_timestep = {step: errors[step] / energies[step] for step in sorted(errors)}
    return sum(errors.values()) / sum(energies.values()), by_timestep
