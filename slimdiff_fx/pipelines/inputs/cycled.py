"""A long sequence that goes round a short one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Cycled(Sequence[Item], Generic[Item]):
    """`items` again and again, up to a length; takes memory for one round only.

    Attributes:
        items: one round, not empty.
        length: of the whole.

    Example:
        >>> Cycled(("a", "b"), 5)[1:]
        ('b', 'a', 'b', 'a')
    """

    items: tuple[Item, ...]
    length: int

    def __len__(self) -> int:
        """Give the length of the whole."""
        return self.length

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        """Give one item, or those of a slice."""
        places = range(self.length)[index]
        if isinstance(places, range):
            return tuple(self.items[place % len(self.items)] for place in places)
        return self.items[places % len(self.items)]

    def __eq__(self, other: object) -> bool:
        """Tell whether the same items come in the same order."""
        if isinstance(other, Cycled):
            return self.length == other.length and self.one_round == other.one_round
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        """Hash by one round."""
        return hash((self.length, self.one_round))

    @property
    def one_round(self) -> tuple[Item, ...]:
        """The items up to where they begin to repeat, or all of them."""
        return self.items[: self.length]
