"""What came of it, in the words and numbers that the terminal and the page share; from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimdiff_fx.tables import change, short, size

# Held-out prompts differ from those that were calibrated on: so much more than was expected is in the nature of it.
MILD = 1.5


def asked_error(report: Mapping[str, Any]) -> float | None:
    """Give the largest relative squared error that was asked for; None where the budget was something else."""
    asked = report["policy"].get("max_error")
    return None if asked is None else float(asked)


def measured_error(report: Mapping[str, Any]) -> float | None:
    """Give the relative squared error of the prediction that was measured while pictures were drawn, if it was."""
    found = (report.get("measured") or {}).get("relative_mse")
    return None if found is None else float(found)


def expected_error(report: Mapping[str, Any]) -> float | None:
    """Give what the plan expects it to be, if it does."""
    found = (report.get("predicted") or {}).get("relative_mse")
    return None if found is None else float(found)


def error_excess(report: Mapping[str, Any]) -> float | None:
    """Give measured over asked error, where that is above one."""
    asked, measured = asked_error(report), measured_error(report)
    if not asked or measured is None or measured <= asked:
        return None
    return measured / asked


def excess_words(excess: float) -> str:
    """Say by how much an error is more than was asked for."""
    return f"{excess:.1f} times what was asked"


def what_to_do(excess: float) -> str | None:
    """Say what to do about an error above what was asked for; None up to `MILD`."""
    if excess <= MILD:
        return None
    return "Calibrate on more prompts like yours, or ask for a smaller error."


def latency_change(report: Mapping[str, Any]) -> tuple[float, str] | None:
    """Give slim over dense latency and what was timed: the budget's runtime, or else one call in the pipeline."""
    budget, call = report.get("latency"), report.get("call")
    if budget:
        return budget["measured"], _times(budget, f"on {budget['backend']}, {_threads(budget['threads'])}")
    if call:
        where = call["device"] if call["threads"] is None else _threads(call["threads"])
        return call["ratio"], _times(call, f"a call, {where}")
    return None


def verdict(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give lines of label and text: what it was, what it is, and by how much that is less."""
    summary = report["summary"]
    lines = []
    if report.get("size"):
        dense, slim = report["size"]["dense"], report["size"]["slim"]
        lines.append(("on disk", _line(size(dense), size(slim), slim / dense, "the denoiser's weights")))
    lines.append(("parameters", _counts(summary["params"], summary["params_kept"], "of the denoiser")))
    lines.append(("multiply-adds", _counts(summary["macs"], summary["macs_kept"], "a call")))
    latency = latency_change(report)
    if latency is not None:
        ratio, note = latency
        lines.append(("latency", f"{change(ratio):>7}  {note}"))
    lines += _error(report)
    pictures = report.get("pictures")
    if pictures:
        each = [value for value in pictures["psnr_db"] if value is not None]
        span = f", {min(each):.1f} to {max(each):.1f}" if len(each) > 1 else ""
        lines.append(("pictures", f"PSNR {pictures['mean_psnr_db']:.1f} dB in the mean{span}"))
    validation = report.get("validation")
    if validation:
        lines.append(
            (
                "proof",
                f"slim equals masked dense to {validation['relative_error']:.1e} "
                f"(at most {validation['tolerance']:.0e} allowed)",
            )
        )
    return lines


def _error(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    asked, measured, expected = asked_error(report), measured_error(report), expected_error(report)
    parts = [] if expected is None else [f"{expected:.1e} expected"]
    if measured is not None:
        parts.append(f"{measured:.1e} measured on {report['measured']['prompts']} pictures")
    if asked is not None and parts:
        parts.append(f"{asked:.1e} asked")
    lines = [("error", ", ".join(parts))] if parts else []
    excess = error_excess(report)
    if excess is not None:
        advice = what_to_do(excess)
        lines.append(("", excess_words(excess) + (":" if advice else "")))
        lines += [("", advice)] if advice else []
    return lines


def _counts(dense: int, slim: int, note: str) -> str:
    return _line(short(dense), short(slim), slim / dense if dense else 1.0, note)


def _line(dense: str, slim: str, ratio: float, note: str) -> str:
    return f"{change(ratio):>7}  {dense} → {slim}, {note}"


def _times(timed: Mapping[str, Any], note: str) -> str:
    return f"{timed['dense_ms']:.1f} → {timed['slim_ms']:.1f} ms {note}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
