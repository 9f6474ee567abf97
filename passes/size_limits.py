"""Say in numbers which sizes guards allow: from how much to how much, and the multiple of what."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from passes.guards import holds

# Sizes are tried up to here. Networks halve a picture six times at most, and their sequences have bounds far above.
TRIED = 512
_PLACE = re.compile(r"L(?:\[[^\]]+\])+\.size\(\)\[(\d+)\]")


@dataclass(frozen=True)
class SizeLimit:
    """Which values a size may have.

    Attributes:
        multiple: of what it has to be a multiple; 1 where it needn't.
        least: the smallest that is allowed.
        most: the largest; None where no bound was found.
        but: multiples in between that are refused all the same.
    """

    multiple: int = 1
    least: int = 1
    most: int | None = None
    but: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least} only"
        words = [f"a multiple of {self.multiple}"] if self.multiple > 1 else []
        if self.least > self.multiple or not words:
            words.append(f"at least {self.least}")
        if self.most is not None:
            words.append(f"at most {self.most}")
        if self.but:
            words.append(f"not {' or '.join(map(str, self.but))}")
        return ", ".join(words)


def size_limit(allowed: Callable[[int], bool], tried: int = TRIED) -> SizeLimit | None:
    """Find out what all allowed sizes have in common.

    Args:
        allowed: tells whether a size is.
        tried: the largest size to ask about.

    Returns:
        None where no size is allowed.

    >>> print(size_limit(lambda size: size % 8 == 0 and size > 8))
    a multiple of 8, at least 16
    """
    found = [size for size in range(1, tried + 1) if allowed(size)]
    if not found:
        return None
    if len(found) == 1:
        return SizeLimit(1, found[0], found[0])
    multiple, least, most = math.gcd(*found), found[0], found[-1]
    but = tuple(sorted(set(range(least, most + 1, multiple)) - set(found)))
    return SizeLimit(multiple, least, most if most + multiple <= tried else None, but)


def simplified(guards: Iterable[str]) -> tuple[str, ...]:
    """Write guards on a single size as what they come to: the multiple, the least and the most.

    A trace writes what it was asked: that a size is twice its half, rounded up. What can't be said so stays as it is.

    >>> simplified(["L['x'].size()[2] == (2 + 2*(((-1) + L['x'].size()[2]) // 2))"])
    ("L['x'].size()[2] % 2 == 0",)
    """
    written: dict[str, None] = {}
    for guard in guards:
        written.update(dict.fromkeys(_simplified(guard)))
    return tuple(written)


def _simplified(guard: str) -> Sequence[str]:
    places = {match.group(0) for match in _PLACE.finditer(guard)}
    if len(places) != 1 or _PLACE.sub("", guard).find("L[") >= 0:
        return (guard,)
    place = places.pop()
    # the guard over any one tensor, whose size is what is tried
    axis = int(_PLACE.fullmatch(place)[1])  # type: ignore[index]
    neutral = guard.replace(place, f"L['x'].size()[{axis}]")

    def allowed(size: int) -> bool:
        try:
            return holds(neutral, {"x": torch.empty((*(1,) * axis, size), device="meta")})
        except ZeroDivisionError:
            return False

    limit = size_limit(allowed)
    if limit is None or limit.but or limit.most is not None:
        return (guard,)
    parts = [f"{place} % {limit.multiple} == 0"] if limit.multiple > 1 else []
    if limit.least > limit.multiple:
        parts.append(f"{place} >= {limit.least}")
    return parts
