"""How much a timestep counts in the second moments that weights are solved from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from passes.calibrate.instrument import BUCKETS
from passes.errors import UsageError
from passes.plan.policies import is_number

# By name, the weight of each bucket from the first timesteps (least noise) to the last (most).
WEIGHTS: dict[str, tuple[float, ...]] = {
    "uniform": (1.0,) * BUCKETS,
    "noise": tuple((2 * bucket + 1) / BUCKETS for bucket in range(BUCKETS)),
    "detail": tuple((2 * (BUCKETS - bucket) - 1) / BUCKETS for bucket in range(BUCKETS)),
}
DEFAULT_WEIGHTS = "uniform"  # as measured, see docs/adr/0013


def bucket_weights(weights: str | Sequence[float]) -> tuple[float, ...] | None:
    """Give the weight of each timestep bucket; None weighs all alike.

    Args:
        weights: "uniform", "noise" (timesteps count by how noisy they are), "detail" (the other way round), or a number
            for each bucket from the least noise to the most.

    Raises:
        UsageError: an unknown name, another number of weights, or weights that are negative, not finite or all zero.
    """
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise UsageError(f"unknown timestep weights {weights!r}; there are {', '.join(WEIGHTS)}")
        return None if weights == "uniform" else WEIGHTS[weights]
    given = tuple(weights)
    usable = all(is_number(weight) and weight >= 0 and math.isfinite(weight) for weight in given)
    if not usable or len(given) != BUCKETS or not any(given):
        raise UsageError(
            f"timestep weights {list(given)}: give {BUCKETS} finite numbers that are not negative and not all zero"
        )
    return tuple(map(float, given))
