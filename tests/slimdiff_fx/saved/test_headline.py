"""The figures that come first, from a report of today and from an older one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slimdiff_fx.saved.headline import MILD, Headline, Timed, excess_words, what_to_do
from slimdiff_fx.saved.report import without_figures

CALL = {"dense_ms": 20.0, "slim_ms": 15.0, "ratio": 0.76, "runs": 9, "rows": 2, "device": "a CPU", "threads": 2}


def _report(**further: Any) -> dict[str, Any]:
    summary = {"params": 1000, "params_kept": 600, "macs": 50, "macs_kept": 20}
    return {
        "policy": {"max_error": 1e-3},
        "summary": summary,
        "predicted": {"relative_mse": 9e-4},
        "measured": {"relative_mse": 2.3e-3, "prompts": 4},
        "latency": None,
        **further,
    }


def test_it_comes_back_from_json() -> None:
    headline = Headline.of(_report(call=CALL)).on_disk(1200)
    report = {**_report(), "headline": json.loads(json.dumps(headline.to_dict()))}
    assert Headline.from_report(report) == headline
    assert (headline.bytes_dense, headline.bytes_slim) == (2000, 1200)
    assert headline.latency is not None
    assert headline.latency.words() == "20.0 → 15.2 ms a call, 2 threads"
    assert (headline.expected, headline.measured, headline.asked) == (9e-4, 2.3e-3, 1e-3)


def test_an_older_report_gives_what_it_has() -> None:
    headline = Headline.from_report(_report(predicted=None, measured=None, policy={}))
    assert headline == Headline(1000, 600, 50, 20)
    assert headline.excess is None


def test_a_latency_budget_has_been_timed_already() -> None:
    budget = {"backend": "ort", "threads": 1, "dense_ms": 8.0, "slim_ms": 4.0, "measured": 0.5}
    assert Headline.of(_report(latency=budget)).latency == Timed(8.0, 4.0, 0.5, "on ort, 1 thread")
    assert Headline.of(_report(latency=budget, call=CALL)).latency == Timed(8.0, 4.0, 0.5, "on ort, 1 thread")


def test_one_call_says_what_it_was_run_on() -> None:
    assert Headline.of(_report(call=CALL)).latency == Timed(20.0, 15.0, 0.76, "a call, 2 threads")
    on_gpu = {**CALL, "threads": None, "device": "cuda"}
    assert Headline.of(_report(call=on_gpu)).latency == Timed(20.0, 15.0, 0.76, "a call, cuda")


def test_changed_weights_have_no_error_and_no_latency() -> None:
    full = {**_report(call=CALL), "headline": Headline.of(_report(call=CALL)).to_dict()}
    headline = Headline.from_report(without_figures(full))
    assert (headline.latency, headline.expected, headline.measured) == (None, None, None)
    assert headline.params_kept == 600


@pytest.mark.parametrize(
    ("measured", "expected", "excess"),
    [(2.3e-3, 9e-4, 2.3), (1e-3, 9e-4, None), (None, 1.2e-3, 1.2), (None, None, None)],
)
def test_the_excess_is_over_what_was_asked(
    measured: float | None, expected: float | None, excess: float | None
) -> None:
    found = Headline(1, 1, 1, 1, measured=measured, expected=expected, asked=1e-3).excess
    assert found == (None if excess is None else pytest.approx(excess, rel=1e-12))


def test_only_what_is_far_over_needs_something_done() -> None:
    assert excess_words(2.34) == "2.3 times what was asked"
    assert excess_words(1.01) == "a little over what was asked"
    assert what_to_do(MILD) is None
    assert "more samples or ask for less error" in (what_to_do(MILD + 0.01) or "")
