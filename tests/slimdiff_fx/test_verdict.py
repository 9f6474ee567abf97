"""What is said at the end: figures by hand, and an error above what was asked for with what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from slimdiff_fx.page.figures import key_figures
from slimdiff_fx.verdict import error_excess, latency_change, verdict

REPORT: dict[str, Any] = {
    "policy": {"method": "best", "max_error": 0.001},
    "predicted": {"relative_mse": 9.4e-4},
    "measured": {"relative_mse": 8e-4, "prompts": 8},
    "pictures": {"psnr_db": [21.2, None, 41.5], "mean_psnr_db": 54.2, "conditions": ["a", "b", "c"]},
    "summary": {
        "params": 9_500_000,
        "params_kept": 7_600_000,
        "macs": 453_000_000,
        "macs_kept": 389_000_000,
        "site_params": 3_430_000,
        "site_params_kept": 1_530_000,
    },
    "size": {"dense": 19_000_000, "slim": 15_200_000},
    "latency": None,
    "call": {"dense_ms": 50.0, "slim_ms": 45.0, "ratio": 0.91, "runs": 9, "rows": 2, "device": "a CPU", "threads": 2},
    "validation": {"relative_error": 7e-7, "tolerance": 1e-5},
}


def _report(**changed: Any) -> dict[str, Any]:
    return {**copy.deepcopy(REPORT), **changed}


def test_the_verdict_by_hand() -> None:
    assert verdict(REPORT) == [
        ("on disk", " −20.0%  19.0 MB → 15.2 MB, the denoiser's weights"),
        ("parameters", " −20.0%  9.50M → 7.60M, of the denoiser"),
        ("multiply-adds", " −14.1%  453M → 389M, a call"),
        ("latency", "  −9.0%  50.0 → 45.0 ms a call, 2 threads"),
        ("error", "9.4e-04 expected, 8.0e-04 measured on 8 pictures, 1.0e-03 asked"),
        ("pictures", "PSNR 54.2 dB in the mean, 21.2 to 41.5"),
        ("proof", "slim equals masked dense to 7.0e-07 (at most 1e-05 allowed)"),
    ]
    assert max(len(text) for _, text in verdict(REPORT)) <= 80 - 14


@pytest.mark.parametrize(
    ("measured", "said", "advised"),
    [(9.9e-4, None, False), (1.2e-3, "1.2 times what was asked", False), (4.3e-3, "4.3 times what was asked:", True)],
)
def test_an_error_above_what_was_asked_is_said_so(measured: float, said: str | None, advised: bool) -> None:
    report = _report(measured={"relative_mse": measured, "prompts": 8})
    lines = [text for label, text in verdict(report) if not label]
    assert lines[:1] == ([] if said is None else [said])
    assert any("Calibrate on more prompts" in line for line in lines) == advised
    assert all(len(line) <= 80 - 14 for line in lines)
    (figure,) = [each for each in key_figures(report) if each.label == "Error of the prediction"]
    assert figure.over == advised
    assert (figure.mark or "").startswith((said or "").rstrip(":"))
    assert "1.0×10⁻³ asked" in figure.note


def test_another_budget_asks_for_no_error() -> None:
    report = _report(policy={"method": "best"}, measured={"relative_mse": 0.5, "prompts": 8})
    assert error_excess(report) is None
    assert ("error", "9.4e-04 expected, 5.0e-01 measured on 8 pictures") in verdict(report)


def test_a_budget_of_latency_says_what_it_timed() -> None:
    budget = {"backend": "ort", "threads": 1, "measured": 0.75, "dense_ms": 20.0, "slim_ms": 15.0}
    assert latency_change(_report(latency=budget)) == (0.75, "20.0 → 15.0 ms on ort, 1 thread")
    assert latency_change(_report(call=None)) is None
    on_gpu = {**REPORT["call"], "threads": None, "device": "cuda"}
    assert latency_change(_report(call=on_gpu)) == (0.91, "50.0 → 45.0 ms a call, cuda")


def test_what_a_report_lacks_is_left_out() -> None:
    missing = dict.fromkeys(("size", "call", "pictures", "measured", "predicted", "validation"))
    assert [label for label, _ in verdict(_report(**missing))] == ["parameters", "multiply-adds"]
    older = {name: value for name, value in REPORT.items() if name not in ("size", "call")}
    assert [figure.label for figure in key_figures(older)][:1] == ["Attention and feed-forward weights"]


def test_size_and_latency_come_first_on_the_page() -> None:
    figures = key_figures(REPORT)
    assert [(figure.label, figure.value) for figure in figures[:2]] == [
        ("Denoiser on disk", "−20.0%"),
        ("Latency", "−9.0%"),
    ]
    assert ("Pictures, mean PSNR", "54.2 dB") in [(figure.label, figure.value) for figure in figures]
