"""Say in numbers which sizes guards allow: from how much to how much, and the multiple of what."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from passes.program.guards import holds

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

    def allows(self, size: int) -> bool:
        """Tell whether a size is within the limit."""
        within = self.least <= size and (self.most is None or size <= self.most)
        return within and size % self.multiple == 0 and size not in self.but

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
    """Write the guards on a single size as what they come to together: the multiple, the least and the most.

    A trace writes what it was asked: that a size is twice its half, rounded up. What can't be said so stays as it is.

    >>> simplified(["L['x'].size()[2] == (2 + 2*(((-1) + L['x'].size()[2]) // 2))"])
    ("L['x'].size()[2] % 2 == 0",)
    """
    guards = tuple(dict.fromkeys(guards))
    alone: dict[str, list[str]] = {}
    for guard in guards:
        place = _only_place(guard)
        if place is not None:
            alone.setdefault(place, []).append(guard)
    simple = {place: _simple(place, found) for place, found in alone.items()}
    written: dict[str, None] = {}
    for guard in guards:
        found = simple.get(_only_place(guard) or "")
        written.update(dict.fromkeys((guard,) if found is None else found))
    return tuple(written)


def _only_place(guard: str) -> str | None:
    """Give the size that a guard is about, None where it is about several or other things too."""
    places = {match.group(0) for match in _PLACE.finditer(guard)}
    return places.pop() if len(places) == 1 and "L[" not in _PLACE.sub("", guard) else None


def _simple(place: str, guards: Sequence[str]) -> tuple[str, ...] | None:
    """Write guards on one size anew, or None where that can't be done."""
    found = _PLACE.fullmatch(place)
    assert found is not None
    axis = int(found[1])
    # The guards are rewritten for one tensor `x`, whose size on this axis is then tried.
    neutral = [guard.replace(place, f"L['x'].size()[{axis}]") for guard in guards]

    def allowed(size: int) -> bool:
        inputs = {"x": torch.empty((*(1,) * axis, size), device="meta")}
        try:
            return all(holds(guard, inputs) for guard in neutral)
        except ZeroDivisionError:
            return False

    limit = size_limit(allowed)
    if limit is None or limit.but:
        return None
    # Bounds and holes beyond what was tried: at the guards' own numbers and their ratios, and far out.
    numbers = {int(number) for guard in neutral for number in re.findall(r"(?<![\w\[])\d+", guard)}
    ratios = {left // right for left in numbers for right in numbers if right}
    far = {2**power for power in range(9, 31)}
    tried = {near * limit.multiple + step for near in (numbers | ratios | far) for step in (-1, 0, 1)}
    tried |= {near + step for near in (numbers | ratios | far) for step in (-1, 0, 1)}
    if any(allowed(size) != limit.allows(size) for size in tried if 0 < size < 2**40):
        return None
    if limit.least == limit.most:
        return (f"{place} == {limit.least}",)
    parts = [f"{place} % {limit.multiple} == 0"] if limit.multiple > 1 else []
    parts += [f"{place} >= {limit.least}"] if limit.least > limit.multiple else []
    return (*parts, *([f"{place} <= {limit.most}"] if limit.most is not None else []))
