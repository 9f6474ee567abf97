"""What is said at the end: figures by hand, and an error above what was asked for with what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from slimdiff_fx.saved.headline import Headline
from slimdiff_fx.saved.page.figures import key_figures
from slimdiff_fx.saved.verdict import verdict

REPORT: dict[str, Any] = {
    "policy": {"method": "best", "max_error": 0.001},
    "predicted": {"relative_mse": 9.4e-4},
    "measured": {"relative_mse": 8e-4, "prompts": 8},
    "pictures": {"psnr_db": [21.2, None, 41.5], "mean_psnr_db": 31.35, "conditions": ["a", "b", "c"]},
    "summary": {
        "params": 9_500_000,
        "params_kept": 7_600_000,
        "macs": 453_000_000,
        "macs_kept": 389_000_000,
        "site_params": 3_430_000,
        "site_params_kept": 1_530_000,
    },
    "latency": None,
    "call": {"dense_ms": 50.0, "slim_ms": 45.0, "ratio": 0.91, "runs": 9, "rows": 2, "device": "a CPU", "threads": 2},
    "validation": {"relative_error": 7e-7, "tolerance": 1e-5},
}


def _report(**changed: Any) -> dict[str, Any]:
    """Give a report as it is saved: with a headline, and sizes on disk in it."""
    report = {**copy.deepcopy(REPORT), **changed}
    return {**report, "headline": Headline.of(report).on_disk(15_200_000).to_dict()}


def test_the_verdict_by_hand() -> None:
    assert verdict(_report()) == [
        ("on disk", " −20.0%  19.0 MB → 15.2 MB, the denoiser's weights"),
        ("parameters", " −20.0%  9.50M → 7.60M, of the denoiser"),
        ("multiply-adds", " −14.1%  453M → 389M, a call"),
        ("latency", "  −9.0%  50.0 → 45.5 ms a call, 2 threads"),
        ("error", "9.4e-04 expected, 8.0e-04 measured on 8 pictures, 1.0e-03 asked"),
        ("pictures", "PSNR 31.4 dB in the mean, 21.2 to 41.5; 1 more is equal"),
        ("proof", "slim equals masked dense to 7.0e-07 (at most 1e-05 allowed)"),
    ]
    assert max(len(text) for _, text in verdict(_report())) <= 80 - 14


@pytest.mark.parametrize(
    ("measured", "said", "advised"),
    [(9.9e-4, None, False), (1.2e-3, "1.2 times what was asked", False), (4.3e-3, "4.3 times what was asked:", True)],
)
def test_an_error_above_what_was_asked_is_said_so(measured: float, said: str | None, advised: bool) -> None:
    report = _report(measured={"relative_mse": measured, "prompts": 8})
    lines = [text for label, text in verdict(report) if not label]
    assert lines[:1] == ([] if said is None else [said])
    assert any("more samples or ask for less error" in line for line in lines) == advised
    assert all(len(line) <= 80 - 14 for line in lines)
    (figure,) = [each for each in key_figures(report) if each.label == "Error of the prediction"]
    assert figure.over == advised
    assert (figure.mark or "").startswith((said or "").rstrip(":"))
    assert "1.0×10⁻³ asked" in figure.note


def test_another_budget_asks_for_no_error() -> None:
    report = _report(policy={"method": "best"}, measured={"relative_mse": 0.5, "prompts": 8})
    assert Headline.from_report(report).excess is None
    assert ("error", "9.4e-04 expected, 5.0e-01 measured on 8 pictures") in verdict(report)


def test_a_budget_of_latency_says_what_it_timed() -> None:
    budget = {"backend": "ort", "threads": 1, "expected": 0.76, "measured": 0.75, "dense_ms": 20.0, "slim_ms": 15.0}
    assert ("latency", " −25.0%  20.0 → 15.0 ms on ort, 1 thread") in verdict(_report(latency=budget))


def test_what_a_report_lacks_is_left_out() -> None:
    older = {**REPORT, **dict.fromkeys(("call", "pictures", "measured", "predicted", "validation"))}
    assert [label for label, _ in verdict(older)] == ["parameters", "multiply-adds"]
    figures = [figure.label for figure in key_figures(older)]
    assert figures == ["Parameters", "Multiply-adds", "Attention and feed-forward"]


def test_size_and_latency_come_first_on_the_page() -> None:
    figures = [(figure.label, figure.value) for figure in key_figures(_report())]
    assert figures[:4] == [
        ("Denoiser on disk", "−20.0%"),
        ("Latency", "−9.0%"),
        ("Parameters", "−20.0%"),
        ("Multiply-adds", "−14.1%"),
    ]


def test_page_and_terminal_give_the_same_mean_of_the_pictures() -> None:
    report = _report()
    (figure,) = [each for each in key_figures(report) if each.label == "Slim pictures, PSNR"]
    assert (figure.value, figure.note) == ("31.4 dB", "mean of 2 pictures; 1 more is equal")
    assert ("pictures", "PSNR 31.4 dB in the mean, 21.2 to 41.5; 1 more is equal") in verdict(report)
    equal = _report(pictures={"conditions": ["a"], "psnr_db": [None], "mean_psnr_db": None})
    assert ("pictures", "equal, every one") in verdict(equal)
    assert ("Slim pictures, PSNR", "equal") in [(figure.label, figure.value) for figure in key_figures(equal)]
