"""What the page says in words and numbers, from report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimdiff_fx.saved.headline import Headline, Timed, excess_words, what_to_do
from slimdiff_fx.saved.pictures import mean_words
from slimdiff_fx.saved.summary import change, short, size

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
        mark: that it is above what was asked for, and by how much.
        over: whether that is so much that something is to be done.
    """

    label: str
    value: str
    note: str
    mark: str | None = None
    over: bool = False


def key_figures(report: Mapping[str, Any], analysis: Mapping[str, Any] | None = None) -> list[Figure]:
    """Pick what a reader asks first: sizes, latency, and how far slim is from dense. What isn't known isn't there."""
    headline = Headline.from_report(report)
    figures = []
    if headline.bytes_dense is not None and headline.bytes_slim is not None:
        dense, slim = headline.bytes_dense, headline.bytes_slim
        figures.append(Figure("Denoiser on disk", change(slim / dense), f"{size(dense)} → {size(slim)}, stored alike"))
    latency = headline.latency or _swept(analysis)
    if latency is not None:
        figures.append(Figure("Latency", change(latency.ratio), latency.words()))
    figures += [
        _change("Parameters", headline.params, headline.params_kept),
        _change("Multiply-adds", headline.macs, headline.macs_kept),
    ]
    figures += _error(headline, report)
    pictures = report.get("pictures") or {}
    if "mean_psnr_db" in pictures:
        words, note = mean_words(pictures["psnr_db"], pictures["mean_psnr_db"])
        figures.append(Figure("Slim pictures, PSNR", words, note))
    summary = report["summary"]
    figures.append(_change("Attention and feed-forward", summary["site_params"], summary["site_params_kept"]))
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


def _error(headline: Headline, report: Mapping[str, Any]) -> list[Figure]:
    """Give the prediction's error, as far as it is known, marked where it is more than was asked for."""
    value = headline.expected if headline.measured is None else headline.measured
    if value is None:
        return []
    if headline.measured is None:
        notes = ["relative squared, expected"]
    else:
        notes = [f"relative squared, measured while {report['measured']['prompts']} pictures were drawn"]
        notes += [] if headline.expected is None else [f"{exponent(headline.expected)} expected"]
    notes += [] if headline.asked is None else [f"{exponent(headline.asked)} asked"]
    excess = headline.excess
    mark = None if excess is None else excess_words(excess)
    over = excess is not None and what_to_do(excess) is not None
    return [Figure("Error of the prediction", exponent(value), "; ".join(notes), mark, over)]


def _swept(analysis: Mapping[str, Any] | None) -> Timed | None:
    """Give the chosen plan's latency, if the sweep over other sizes has measured it."""
    sweep = (analysis or {}).get("measured") or {"points": ()}
    found = next((point for point in sweep["points"] if point["at"] is None), None)
    return (
        None
        if found is None
        else Timed(found["dense_ms"], found["slim_ms"], found["latency_ratio"], f"on {sweep['backend']}")
    )


def _change(label: str, dense: int, slim: int) -> Figure:
    return Figure(label, change(slim / dense if dense else 1.0), f"{short(dense)} → {short(slim)}")
