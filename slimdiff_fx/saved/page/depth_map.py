"""Where sites lie in the denoiser: blocks in the order of its depth, a UNet's two sides level by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slimdiff_fx.saved.site_names import block_of

_DOWN, _MIDDLE, _UP = "down_blocks", "mid_block", "up_blocks"


@dataclass(frozen=True)
class Block:
    """One block and the numbers of its sites, in the graph's order."""

    name: str
    sites: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class DepthMap:
    """The blocks of a denoiser.

    Attributes:
        levels: of a UNet, from the largest resolution to the smallest: (down, up), None where a side has no site.
        middle: of a UNet, the block at the bottom, or None.
        rows: of other denoisers, the blocks in their order.
    """

    levels: tuple[tuple[Block | None, Block | None], ...] = ()
    middle: Block | None = None
    rows: tuple[Block, ...] = ()


def depth_map(names: Sequence[str]) -> DepthMap:
    """Sort sites into blocks by their dotted paths.

    Example:
        >>> found = depth_map(["down_blocks.0.a.attn1", "mid_block.a.attn1", "up_blocks.1.a.attn1"])
        >>> [[block and block.name for block in level] for level in found.levels]
        [['down_blocks.0', 'up_blocks.1'], [None, None]]
    """
    blocks: dict[str, Block] = {}
    for number, name in enumerate(names):
        place = block_of(name)
        blocks.setdefault(place, Block(place)).sites.append(number)
    if not all(name.startswith((_DOWN, _MIDDLE, _UP)) for name in blocks):
        return DepthMap(rows=tuple(blocks.values()))
    last = max((int(name.split(".")[1]) for name in blocks if name.startswith((_DOWN, _UP))), default=-1)
    levels = tuple((blocks.get(f"{_DOWN}.{level}"), blocks.get(f"{_UP}.{last - level}")) for level in range(last + 1))
    return DepthMap(levels, blocks.get(_MIDDLE))
