"""The result of slimming in a few lines, the same on the terminal and the page; from report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimdiff_fx.saved.headline import Headline, excess_words, what_to_do
from slimdiff_fx.saved.pictures import psnr_words
from slimdiff_fx.saved.summary import change, short, size


def verdict(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Give lines of label and text: each figure of the dense and of the slim model, and the change."""
    headline = Headline.from_report(report)
    lines = []
    dense, slim = headline.bytes_dense, headline.bytes_slim
    if dense is not None and slim is not None:
        lines.append(("on disk", _line(size(dense), size(slim), slim / dense, "the denoiser's weights")))
    lines.append(("parameters", _counts(headline.params, headline.params_kept, "of the denoiser")))
    lines.append(("multiply-adds", _counts(headline.macs, headline.macs_kept, "a call")))
    if headline.latency is not None:
        lines.append(("latency", f"{change(headline.latency.ratio):>7}  {headline.latency.words()}"))
    budget = report.get("latency")
    if budget:
        lines.append(("", f"{budget['expected']:.3f} of the dense one expected, {budget['measured']:.3f} measured"))
    lines += _error(headline, report)
    pictures = report.get("pictures")
    if pictures and "mean_psnr_db" in pictures:
        lines.append(("pictures", _pictures(pictures["psnr_db"], pictures["mean_psnr_db"])))
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


def _error(headline: Headline, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = [] if headline.expected is None else [f"{headline.expected:.1e} expected"]
    if headline.measured is not None:
        parts.append(f"{headline.measured:.1e} measured on {report['measured']['prompts']} pictures")
    if headline.asked is not None and parts:
        parts.append(f"{headline.asked:.1e} asked")
    lines = [("error", ", ".join(parts))] if parts else []
    excess = headline.excess
    if excess is not None:
        advice = what_to_do(excess)
        lines.append(("", excess_words(excess) + (":" if advice else "")))
        lines += [("", advice)] if advice else []
    return lines


def _pictures(ratios: Sequence[float | None], mean: float | None) -> str:
    each = [ratio for ratio in ratios if ratio is not None]
    if not each:
        return "equal, every one"
    span = f", {min(each):.1f} to {max(each):.1f}" if len(each) > 1 else ""
    equal = len(ratios) - len(each)
    more = f"; {equal} more {'is' if equal == 1 else 'are'} equal" if equal else ""
    return f"PSNR {psnr_words(mean)} in the mean{span}{more}"


def _counts(dense: int, slim: int, note: str) -> str:
    return _line(short(dense), short(slim), slim / dense if dense else 1.0, note)


def _line(dense: str, slim: str, ratio: float, note: str) -> str:
    return f"{change(ratio):>7}  {dense} → {slim}, {note}"
