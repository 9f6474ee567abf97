"""What the page says in words and numbers, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimdiff_fx.tables import change, short, size
from slimdiff_fx.verdict import (
    asked_error,
    error_excess,
    excess_words,
    expected_error,
    latency_change,
    measured_error,
    what_to_do,
)

_METHODS = {
    "best": "best, the least expected error",
    "slimdiff": "slimdiff, spectral modules",
    "obs": "obs, the same share of each site",
    "threshold": "threshold, by score",
}


@dataclass(frozen=True)
class Figure:
    """One of the figures at the top.

    Attributes:
        label: what.
        value: how much.
        note: what that was from.
        mark: what is to be said of it, such as that it is more than was asked for.
        over: whether that needs something to be done.
    """

    label: str
    value: str
    note: str
    mark: str | None = None
    over: bool = False


def key_figures(report: Mapping[str, Any], analysis: Mapping[str, Any] | None = None) -> list[Figure]:
    """Pick what a reader asks first: sizes, and how far slim is from dense."""
    summary = report["summary"]
    figures = [
        _change("Attention and feed-forward weights", summary["site_params"], summary["site_params_kept"]),
        _change("Parameters of the denoiser", summary["params"], summary["params_kept"]),
        _change("Multiply-adds a forward", summary["macs"], summary["macs_kept"]),
    ]
    sizes = report.get("size")
    if sizes:
        dense, slim = sizes["dense"], sizes["slim"]
        figures.insert(0, Figure("Denoiser on disk", change(slim / dense), f"{size(dense)} → {size(slim)}"))
    latency = _latency(report, analysis)
    if latency is not None:
        figures.insert(1, latency)
    figures += _error(report)
    pictures = report.get("pictures") or {}
    if pictures.get("mean_psnr_db") is not None:
        figures.append(Figure("Pictures, mean PSNR", f"{pictures['mean_psnr_db']:.1f} dB", "slim against dense"))
    validation = report.get("validation")
    if validation:
        note = f"relative difference; at most {exponent(validation['tolerance'])} allowed"
        figures.append(Figure("Slim against masked dense", exponent(validation["relative_error"]), note))
    return figures


def how_made(report: Mapping[str, Any], seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    """List what was asked for and what it was run on."""
    policy, calibration = report["policy"], report.get("calibration") or {}
    rows = [("Method", _METHODS.get(policy.get("method"), str(policy.get("method"))))]
    budgets = {"tau": "Threshold τ", "max_error": "Largest error", "align": "Widths are multiples of"}
    rows += [(words, f"{policy[key]:g}") for key, words in budgets.items() if policy.get(key) is not None]
    rows += [(f"Share of {name} asked to stay", f"{share:.1%}") for name, share in (policy.get("budget") or {}).items()]
    for kind, name in (policy.get("criterion") or {}).items() if isinstance(policy.get("criterion"), Mapping) else ():
        rows.append((f"Score of {kind.replace('_', '-')} units", str(name)))
    if policy.get("compensation"):
        rows.append(("Compensation", str(policy["compensation"])))
    if calibration:
        conditions = calibration["distinct_conditions"]
        rows.append(("Calibrated on", f"{calibration['samples']} samples of {conditions} prompts or labels"))
        guidance = calibration.get("guidance")
        steps = f"{calibration['steps']} steps" + ("" if guidance is None else f", guidance {guidance:g}")
        rows += [("Sampling", steps), ("Seed", str(calibration["seed"]))]
        rows.append(("Run on", f"{calibration['device']}, {calibration['dtype']}"))
    rows += [(f"Time of {name}", f"{value:.1f} s") for name, value in seconds.items()]
    environment = report["environment"]
    rows.append(("Python", f"{environment['python']}, {environment['threads']} threads"))
    rows += [(name, version) for name, version in environment["packages"].items() if version]
    return rows


def exponent(value: float) -> str:
    """Write a small number as people do: 9.4×10⁻⁴.

    Example:
        >>> exponent(0.00094), exponent(0.25), exponent(0.0)
        ('9.4×10⁻⁴', '0.25', '0')
    """
    if value == 0 or value >= 0.01:
        return f"{value:.2g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}×10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _error(report: Mapping[str, Any]) -> list[Figure]:
    """Give the prediction's error, as far as it is known, marked where it is more than was asked for."""
    asked, expected, measured = asked_error(report), expected_error(report), measured_error(report)
    value = expected if measured is None else measured
    if value is None:
        return []
    notes = ["relative squared"]
    if measured is None:
        notes.append("expected")
    else:
        notes.append(f"while {report['measured']['prompts']} pictures were drawn")
        if expected is not None:
            notes.append(f"{exponent(expected)} expected")
    if asked is not None:
        notes.append(f"{exponent(asked)} asked")
    excess = error_excess(report)
    mark = None if excess is None else excess_words(excess)
    advice = None if excess is None else what_to_do(excess)
    if advice is not None:
        mark = f"{mark}. {advice}"
    return [Figure("Error of the prediction", exponent(value), ", ".join(notes), mark, over=advice is not None)]


def _latency(report: Mapping[str, Any], analysis: Mapping[str, Any] | None) -> Figure | None:
    """Give the chosen plan's latency, as a budget of it, one call in the pipeline or the sweep has measured it."""
    timed = latency_change(report)
    if timed is None:
        sweep = (analysis or {}).get("measured") or {"points": ()}
        found = next((point for point in sweep["points"] if point["at"] is None), None)
        if found is None:
            return None
        timed = found["latency_ratio"], f"{found['dense_ms']:.1f} → {found['slim_ms']:.1f} ms on {sweep['backend']}"
    return Figure("Latency", change(timed[0]), timed[1])


def _change(label: str, dense: int, slim: int) -> Figure:
    return Figure(label, change(slim / dense if dense else 1.0), f"{short(dense)} → {short(slim)}")
