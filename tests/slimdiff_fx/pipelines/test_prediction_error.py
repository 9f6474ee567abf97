"""The error beside a pipeline that draws: squares over all calls, of unequal size, before they are divided."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimdiff_fx.pipelines import prediction_error
from slimdiff_fx.pipelines.prediction_error import PredictionError, measured_error


class Denoiser(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, sample: Tensor, timestep: int, return_dict: bool = True) -> Any:
        result = sample * (1 + timestep * (self.factor - 1))
        return SimpleNamespace(sample=result) if return_dict else (result,)


@pytest.mark.parametrize("half", [False, True])
def test_the_error_by_hand(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_error, "denoiser_name", lambda pipe: "unet")
    dense, slim = Denoiser(1.0), Denoiser(1.5)
    pipe: Any = SimpleNamespace(unet=dense)
    dtype = torch.float16 if half else torch.float32
    first, second = torch.full((1, 4), 3.0, dtype=dtype), torch.full((2, 400), 400.0, dtype=dtype)
    with measured_error(pipe, slim) as error:
        assert error.relative_mse is None
        plain = pipe.unet(first, 1).sample
        listed = pipe.unet(second, timestep=2, return_dict=False)
    assert torch.equal(plain, first)  # what is drawn is the dense one's
    assert torch.equal(listed[0], second)
    assert "forward" not in dense.__dict__
    # 400² times 800 overflows half precision, and 1.5² times 4 would vanish beside it there
    energy = 4 * 9.0 + 800 * 160_000.0
    lost = 4 * 1.5**2 + 800 * 400.0**2
    assert (error.lost, error.energy) == (lost, energy)
    assert error.relative_mse == lost / energy


def test_it_is_none_before_any_call() -> None:
    assert PredictionError().relative_mse is None
    assert PredictionError(1.0, 4.0).relative_mse == 0.25


def test_a_failure_gives_the_denoiser_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_error, "denoiser_name", lambda pipe: "unet")
    pipe: Any = SimpleNamespace(unet=Denoiser(1.0))
    with pytest.raises(TypeError), measured_error(pipe, nn.Identity()):
        pipe.unet(torch.ones(1, 1), 1)
    assert "forward" not in pipe.unet.__dict__
