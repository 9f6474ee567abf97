"""What the page says in words and numbers, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimdiff_fx.tables import short

_METHODS = {
    "best": "best, the least expected error",
    "slimdiff": "slimdiff, spectral modules",
    "obs": "obs, the same share of each site",
    "threshold": "threshold, by score",
}


@dataclass(frozen=True)
class Figure:
    """One of the figures at the top: what, how much, and what that was from."""

    label: str
    value: str
    note: str


def key_figures(report: Mapping[str, Any], analysis: Mapping[str, Any] | None = None) -> list[Figure]:
    """Pick what a reader asks first: sizes, and how far slim is from dense."""
    summary = report["summary"]
    figures = [
        _change("Attention and feed-forward weights", summary["site_params"], summary["site_params_kept"]),
        _change("Parameters of the denoiser", summary["params"], summary["params_kept"]),
        _change("Multiply-adds a forward", summary["macs"], summary["macs_kept"]),
    ]
    predicted = (report.get("predicted") or {}).get("relative_mse")
    measured = report.get("measured") or {}
    if measured.get("relative_mse") is not None:
        note = f"relative squared, while {measured['prompts']} pictures were drawn"
        if predicted is not None:
            note += f"; {exponent(predicted)} expected"
        figures.append(Figure("Error of the prediction", exponent(measured["relative_mse"]), note))
    elif predicted is not None:
        figures.append(Figure("Error of the prediction", exponent(predicted), "relative squared, expected"))
    latency = _latency(report, analysis)
    if latency is not None:
        figures.append(latency)
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


def _latency(report: Mapping[str, Any], analysis: Mapping[str, Any] | None) -> Figure | None:
    """Give the chosen plan's latency, as a budget of it or the sweep has measured it."""
    found = report.get("latency")
    if found:
        ratio, backend = found["measured"], found["backend"]
    else:
        sweep = (analysis or {}).get("measured")
        found = next((point for point in sweep["points"] if point["at"] is None), None) if sweep else None
        if not found or not sweep:
            return None
        ratio, backend = found["latency_ratio"], sweep["backend"]
    note = f"{found['dense_ms']:.1f} → {found['slim_ms']:.1f} ms on {backend}"
    return Figure("Latency", f"{ratio - 1:+.1%}".replace("-", "−"), note)


def _change(label: str, dense: int, slim: int) -> Figure:
    share = slim / dense - 1 if dense else 0.0
    return Figure(label, f"{share:+.1%}".replace("-", "−"), f"{short(dense)} → {short(slim)}")
