"""How does a cost grow? The exponent of a power law, by least squares over logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Exponent:
    """y ~ x to the power `value`.

    Attributes:
        value: the slope over logarithms; 1 is linear.
        error: half the width of its 95% confidence interval (Student's t); None with fewer than three points.
        points: how many there were.
    """

    value: float
    error: float | None
    points: int

    def __str__(self) -> str:
        return f"{self.value:.2f}" if self.error is None else f"{self.value:.2f} ± {self.error:.2f}"


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> Exponent | None:
    """Fit log y over log x; None with fewer than two different x."""
    if len(set(x)) < 2:
        return None
    line = stats.linregress(np.log(x), np.log(y))
    free = len(x) - 2
    error = float(stats.t.ppf(0.975, free) * line.stderr) if free > 0 else None
    return Exponent(float(line.slope), error, len(x))
