"""The few figures that come first: size on disk, parameters, multiply-adds, latency, and how far off slim is.

Page, terminal and model card read them from report.json's entry `headline`, so that all say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from slimdiff_fx.timing.interleave import both_times

# Pictures are drawn from prompts that weren't calibrated on, so a little more than was asked for is to be expected.
MILD = 1.5


@dataclass(frozen=True)
class Timed:
    """Dense and slim, timed in turn.

    Attributes:
        dense_ms: median of one call of the dense denoiser, in milliseconds.
        slim_ms: of the slim one, for the record.
        ratio: slim over dense, the median of the turns' own.
        where: what was timed and on what, as a reader is told: "a call, 2 threads".
    """

    dense_ms: float
    slim_ms: float
    ratio: float
    where: str

    def words(self) -> str:
        """Write both times and what they were taken of; the slim one as `both_times` does."""
        dense, slim = both_times(self.dense_ms, self.ratio)
        return f"{dense} → {slim} ms {self.where}"

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Timed | None:
        """Pick what a latency budget has measured, or else how long one call in the pipeline takes, if it was timed."""
        budget, call = report.get("latency"), report.get("call")
        if budget:
            where = f"on {budget['backend']}, {_threads(budget['threads'])}"
            return cls(budget["dense_ms"], budget["slim_ms"], budget["measured"], where)
        if call:
            where = call["device"] if call["threads"] is None else _threads(call["threads"])
            return cls(call["dense_ms"], call["slim_ms"], call["ratio"], f"a call, {where}")
        return None


@dataclass(frozen=True)
class Headline:
    """What a reader asks first. None is what isn't known, and then isn't shown.

    Attributes:
        params: parameters of the dense denoiser.
        params_kept: of the slim one.
        macs: multiply-adds of one forward of the dense denoiser.
        macs_kept: of the slim one.
        bytes_dense: what the dense denoiser's weights would take on disk, stored as the slim ones are.
        bytes_slim: what the slim denoiser's weights take on disk.
        latency: of both, in milliseconds.
        expected: relative squared error of the prediction that the plan expects.
        measured: the same, measured while the dense model drew pictures.
        asked: the largest that was asked for.
    """

    params: int
    params_kept: int
    macs: int
    macs_kept: int
    bytes_dense: int | None = None
    bytes_slim: int | None = None
    latency: Timed | None = None
    expected: float | None = None
    measured: float | None = None
    asked: float | None = None

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Headline:
        """Pick the figures from a report's other entries; sizes on disk aren't among them, see `on_disk`."""
        summary = report["summary"]
        return cls(
            summary["params"],
            summary["params_kept"],
            summary["macs"],
            summary["macs_kept"],
            latency=Timed.of(report),
            expected=(report.get("predicted") or {}).get("relative_mse"),
            measured=(report.get("measured") or {}).get("relative_mse"),
            asked=(report.get("policy") or {}).get("max_error"),
        )

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Headline:
        """Read report.json's `headline`; of an older report, pick what the other entries have."""
        entry = report.get("headline")
        if entry is None:
            return cls.of(report)
        latency = entry.get("latency")
        return cls(**{**entry, "latency": None if latency is None else Timed(**latency)})

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values for the report."""
        return asdict(self)

    def on_disk(self, bytes_slim: int) -> Headline:
        """Add sizes on disk, given what the slim denoiser's weights take; the dense ones' are in proportion."""
        bytes_dense = round(bytes_slim * self.params / self.params_kept) if self.params_kept else bytes_slim
        return replace(self, bytes_dense=bytes_dense, bytes_slim=bytes_slim)

    @property
    def excess(self) -> float | None:
        """How many times the error that was asked for the measured one is; None up to once, and where one is unknown.

        Where nothing was measured, the expected error is taken.
        """
        error = self.expected if self.measured is None else self.measured
        if error is None or not self.asked or error <= self.asked:
            return None
        return error / self.asked


def excess_words(excess: float) -> str:
    """Say by how much an error is above what was asked for.

    Example:
        >>> excess_words(2.3)
        '2.3 times what was asked'
    """
    return f"{excess:.1f} times what was asked" if excess >= 1.05 else "a little over what was asked"


def what_to_do(excess: float) -> str | None:
    """Say what to do about an error above what was asked for; None up to `MILD` times."""
    if excess <= MILD:
        return None
    return "Try more samples or ask for less error; look at the pictures."


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
