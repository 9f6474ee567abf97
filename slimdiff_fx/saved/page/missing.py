"""What a folder lacks for the page, and the command that gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Missing:
    """Something that the page would show.

    Attributes:
        what: is missing, and why, in a sentence.
        command: that writes a folder with it.
    """

    what: str
    command: str


def find_missing(report: Mapping[str, Any], analysis: Mapping[str, Any] | None, *, pairs: bool) -> dict[str, Missing]:
    """Say what is missing, by the part of the page: "pictures", "analysis", "measured".

    Args:
        report: report.json.
        analysis: analysis.json, or None.
        pairs: whether there are pictures one by one.
    """
    slim = f"slimdiff-fx slim {report.get('model', 'MODEL')} -o DIR"
    missing = {}
    if not pairs:
        missing["pictures"] = Missing("This folder holds no pictures of dense and slim one by one.", slim)
    if analysis is None:
        missing["analysis"] = Missing(
            "This folder holds no scores, error curves and other sizes: it was written by `apply`, which has no "
            "calibration, or by an earlier version.",
            slim,
        )
    if analysis is None or "measured" not in analysis:
        missing["measured"] = Missing(
            "Error and latency were not measured at other sizes than the one that was chosen.", f"{slim} --sweep 6"
        )
    return missing
