"""Which tokens of a sequence are looked at: one in each of a few equal stretches, the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable

# One in 16 tokens, within bounds. A query costs a small part of the attention itself. What a second moment costs grows
# with the square of a site's width, and calibration sees every prompt at many timesteps anyway.
SAMPLED_SHARE = 16
FEWEST_QUERIES, MOST_QUERIES = 2, 8
FEWEST_TOKENS, MOST_TOKENS = 4, 8
_GOLDEN_RATIO, _SILVER_RATIO = 0.6180339887498949, 0.4142135623730951


def sampled_positions(tokens: int) -> list[int]:
    """Choose the queries whose attention weights are looked at.

    Where in its stretch follows multiples of the golden ratio: the same place in each stretch would sample one column
    of a picture again and again.

    Returns:
        Ascending positions below `tokens`: one for every `SAMPLED_SHARE` tokens, from 2 to 8.
    """
    return _in_stretches(tokens, FEWEST_QUERIES, MOST_QUERIES, lambda stretch: 0.5 + stretch * _GOLDEN_RATIO)


def sampled_tokens(tokens: int, timestep: float) -> list[int]:
    """Choose the tokens whose second moments are taken; which ones moves on with the timestep.

    The choice depends on nothing else, so that sums don't depend on how samples are batched.

    Returns:
        Ascending positions below `tokens`: one for every `SAMPLED_SHARE` tokens, from 4 to 8.
    """
    return _in_stretches(
        tokens,
        FEWEST_TOKENS,
        MOST_TOKENS,
        lambda stretch: timestep * _GOLDEN_RATIO + stretch * _SILVER_RATIO,
    )


def _in_stretches(tokens: int, fewest: int, most: int, place: Callable[[int], float]) -> list[int]:
    """Choose one position in each stretch; of `place`, by the stretch's number, what is behind the point counts."""
    count = min(tokens, max(fewest, min(most, tokens // SAMPLED_SHARE)))
    ends = [stretch * tokens // count for stretch in range(count + 1)]
    within = [place(stretch) % 1 for stretch in range(count)]
    return [ends[index] + int(within[index] * (ends[index + 1] - ends[index])) for index in range(count)]
