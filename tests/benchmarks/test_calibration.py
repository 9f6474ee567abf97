"""The benchmark of calibration on a tiny pipeline."""

from __future__ import annotations

import pytest

from benchmarks.calibration import BFLOAT16, LIGHT, MOMENTS, SAMPLED, SAMPLING, measure_calibration


@pytest.mark.slow
def test_every_form_is_measured_against_drawing(toy_pipeline) -> None:
    result = measure_calibration(str(toy_pipeline), batch=2, steps=3, observe_steps=1, repeats=3, warmup=0)
    forms = result["forms"]
    assert set(forms) == {SAMPLING, f"{SAMPLING}, {BFLOAT16}", LIGHT, MOMENTS, SAMPLED, BFLOAT16}
    assert {form["runs"] for form in forms.values()} == {3}
    assert forms[SAMPLING]["of_sampling"] == 1
    for form in forms.values():
        assert abs(form["samples_per_second"] * form["median_ms"] / 2000 - 1) < 1e-2
    # bfloat16 keeps 8 bits: its statistics differ from float32's, and not by much.
    assert 1e-5 < forms[BFLOAT16]["median_deviation_of_means"] < 0.1
