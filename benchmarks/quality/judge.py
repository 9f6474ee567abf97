"""Everything that is measured of one contestant's denoiser, against the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.quality.agreement import Agreement, encode_texts, real_pictures, train_agreement
from benchmarks.quality.arena import Arena
from benchmarks.quality.features import EfficientNetLite0, as_tensor, distances, likeness
from benchmarks.quality.prediction_error import prediction_error, record_trajectory
from slimdiff_fx.pipelines.sampling import draw

REAL = Path("reference-work") / "pictures.npz"
HOW_TO_GET_REAL = f"no real pictures at {REAL}: run `python -m benchmarks.reference pictures` for agreement and ceiling"


@dataclass(frozen=True)
class _Reference:
    calls: list[Any]
    captions: tuple[str, ...]
    pictures: Tensor
    features: Tensor


class Judge:
    """Measures denoisers on held-out captions, with noise of other seeds than calibration's.

    Args:
        arena: the dense model.
        real: file of the real pictures.
    """

    def __init__(self, arena: Arena, real: Path = REAL) -> None:
        self.arena = arena
        self._network = EfficientNetLite0()
        self._references: dict[int, _Reference] = {}
        self._real = real_pictures(real)
        self._heads: Agreement | None = None
        if self._real is not None:
            pictures, captions, held_out = self._real
            known = ~held_out
            texts = [caption for caption, is_known in zip(captions, known.tolist(), strict=True) if is_known]
            self._heads = train_agreement(self._network(pictures[known]), encode_texts(texts))
        self._texts: dict[tuple[str, ...], Tensor] = {}

    def measure(self, model: nn.Module, seed: int) -> tuple[dict[str, Any], list[Image.Image]]:
        """Measure one denoiser; gives figures and the pictures that it drew."""
        reference = self._reference(seed)
        error, by_timestep = prediction_error(model, reference.calls)
        pictures = self._draw(model, reference.captions, _noise(seed))
        tensor = as_tensor(pictures)
        features = self._network(tensor)
        figures = {
            "relative_mse": error,
            "relative_mse_by_timestep": by_timestep,
            **likeness(reference.pictures, tensor),
            **distances(reference.features, features),
            **self._agree(features, reference.captions),
        }
        return figures, pictures

    def bounds(self, seed: int) -> dict[str, dict[str, float]]:
        """Measure the dense model with other noise (floor), and real pictures of held-out captions (ceiling)."""
        reference = self._reference(seed)
        other = self._network(as_tensor(self._draw(self.arena.captured.model, reference.captions, _noise(seed) + 7)))
        bounds = {
            "floor": {**distances(reference.features, other), **self._agree(other, reference.captions)},
            "dense": self._agree(reference.features, reference.captions),
        }
        if self._real is not None:
            pictures, captions, held_out = self._real
            chosen = held_out.nonzero().flatten()[: len(reference.captions)]
            features = self._network(pictures[chosen])
            texts = tuple(captions[index] for index in chosen.tolist())
            bounds["ceiling"] = {**distances(reference.features, features), **self._agree(features, texts)}
        return bounds

    def dense_pictures(self, seed: int) -> list[Image.Image]:
        """Give what the dense model drew, in the order of the contestants' pictures."""
        return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in self._reference(seed).pictures]

    def _reference(self, seed: int) -> _Reference:
        if seed not in self._references:
            held_out, scale = self.arena.held_out, self.arena.scale
            order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed)).tolist()
            captions = tuple(held_out[index] for index in order)
            calls = record_trajectory(self.arena, captions[: scale.prompts], _noise(seed))
            drawn = captions[: scale.pictures]
            pictures = as_tensor(self._draw(self.arena.captured.model, drawn, _noise(seed)))
            self._references[seed] = _Reference(calls, drawn, pictures, self._network(pictures))
        return self._references[seed]

    def _draw(self, model: nn.Module, captions: tuple[str, ...], noise: int) -> list[Image.Image]:
        pipe = self.arena.loaded.pipe
        dense = pipe.unet
        try:
            pipe.unet = model
            sampling = self.arena.loaded.sampling.given(self.arena.scale.picture_steps, None)
            return draw(pipe, captions, noise, sampling, batch=16)
        finally:
            pipe.unet = dense

    def _agree(self, features: Tensor, captions: tuple[str, ...]) -> dict[str, float]:
        if self._heads is None:
            return {}
        if captions not in self._texts:
            self._texts[captions] = encode_texts(list(captions))
        return self._heads.score(features, self._texts[captions])


def _noise(seed: int) -> int:
    # far from the seeds that calibration draws its noise with
    return 10_000 + 101 * seed
