"""Quantizers are calibrated on exactly what this project's observers are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from passes.calibrate.calibrate import calibrate
from passes.errors import CalibrationError
from passes.program.inputs import example_tensors
from slimdiff_fx.calibration.observe import watch_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.run import calibrate_pipeline
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.quantize.recorded_calls import flat_calls, record_calls


@pytest.mark.slow
def test_they_are_what_observers_see(toy_pipeline: Path) -> None:
    loaded = load_pipeline(str(toy_pipeline))
    captured = capture_pipeline(loaded.pipe)
    samples = gather_samples(loaded.pipe, prompts=None, images=None, samples=3, seed=0, folder=loaded.folder)
    settings = CalibrationSettings(loaded.sampling, batch=2)
    calls = record_calls(loaded.pipe, captured.inputs, samples, settings)
    assert len(calls) == 2 * 2  # two batches of two steps
    assert "forward" not in loaded.pipe.unet.__dict__
    flat = flat_calls(calls)
    assert [len(call) for call in flat] == [len(example_tensors(captured.program))] * 4
    assert [call[0].shape[0] for call in flat] == [4, 4, 2, 2]  # guidance doubles the rows

    instrumented, observed = watch_pipeline(loaded.pipe, captured, settings)
    stored = calibrate_pipeline(loaded.pipe, instrumented, observed, samples, settings).statistics
    again, _ = watch_pipeline(loaded.pipe, captured, settings)
    sums = calibrate(again, calls)
    assert sums.calls == stored.calls
    for name, values in stored.sites.items():
        for key, value in values.items():
            # The graph's prediction may differ from the model's by rounding, and steers the next step.
            torch.testing.assert_close(sums.sites[name][key], value, rtol=1e-5, atol=1e-6)


def test_nothing_to_draw(toy_pipeline: Path) -> None:
    loaded = load_pipeline(str(toy_pipeline))
    captured = capture_pipeline(loaded.pipe)
    with pytest.raises(CalibrationError, match="nothing to calibrate on"):
        record_calls(loaded.pipe, captured.inputs, [], CalibrationSettings())
