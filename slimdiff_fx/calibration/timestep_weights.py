"""How much a timestep counts in the second moments that weights are solved from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from passes.errors import UsageError

# By name: a weight from a bucket's number and how many buckets there are; bucket 0 is the one of least noise.
WEIGHTS: Mapping[str, Callable[[int, int], float]] = {
    "uniform": lambda bucket, buckets: 1.0,
    "noise": lambda bucket, buckets: (2 * bucket + 1) / buckets,
    "detail": lambda bucket, buckets: (2 * (buckets - bucket) - 1) / buckets,
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
    from passes.calibrate.instrument import BUCKETS  # imports torch: not for --help
    from passes.plan.policies import is_number

    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise UsageError(f"unknown timestep weights {weights!r}; there are {', '.join(WEIGHTS)}")
        weigh = WEIGHTS[weights]
        return None if weights == "uniform" else tuple(weigh(bucket, BUCKETS) for bucket in range(BUCKETS))
    given = tuple(weights)
    usable = all(is_number(weight) and weight >= 0 and math.isfinite(weight) for weight in given)
    if not usable or len(given) != BUCKETS or not any(given):
        raise UsageError(
            f"timestep weights {list(given)}: give {BUCKETS} finite numbers that are not negative and not all zero"
        )
    return tuple(map(float, given))
