"""Make inputs that a program wasn't captured on: other values, another batch, other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from passes.errors import UsageError
from passes.program.inputs import input_nodes
from passes.program.program import Program
from passes.program.sized_inputs import first_accepted, like_example
from passes.program.torch_private import captured_values, expression

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]

# A U-Net halves its picture several times, so its sizes are multiples of some power of two. The least step that the
# program's guards accept is taken: cheap on big models.
STEPS = (8, 16, 32, 64, 128)
BATCHES = (3, 1)


def fresh_inputs(program: Program, seed: int = 0) -> tuple[Inputs, ...]:
    """Make one input for each batch size in `BATCHES`, small and not square where the program's sizes are free.

    Args:
        program: its example inputs, symbolic sizes and guards are what they are made from.
        seed: for the values.

    Returns:
        Pairs (args, kwargs).

    Raises:
        UsageError: the program's guards accept none of the sizes tried.
    """
    return tuple(_input(program, batch, turn, seed) for turn, batch in enumerate(BATCHES))


def small_input(program: Program, seed: int = 0) -> Inputs:
    """Make the first of `fresh_inputs` alone.

    Raises:
        UsageError: the program's guards accept none of the sizes tried.
    """
    return _input(program, BATCHES[0], 0, seed)


def _input(program: Program, batch: int, turn: int, seed: int) -> Inputs:
    groups, hints = _groups(input_nodes(program))
    proposals = _assignments(groups, hints, batch, turn)
    try:
        return first_accepted(program, proposals, partial(like_example, seed + turn))
    except UsageError as error:
        raise UsageError(
            f"no other size to validate at was found ({error}); pass `inputs` that the program takes"
        ) from error


def _assignments(groups: list[list[Any]], hints: Mapping[Any, int], batch: int, turn: int) -> Iterator[dict[Any, int]]:
    """Propose sizes by symbol: small and not square first, then square, then as captured, at last the batch too."""
    first, free = groups[:1], groups[1:]
    batches = {symbol: batch for group in first for symbol in group}
    for spread in (1, 0):
        for step in STEPS:
            sizes = dict(batches)
            for position, group in enumerate(free):
                # Landscape at the first turn, portrait at the second.
                wanted = step * (1 + spread * ((position + turn) % 2))
                largest = max(hints[symbol] for symbol in group)
                wanted = 3 * step if wanted == largest else wanted
                sizes.update({symbol: wanted * hints[symbol] // largest for symbol in group})
            yield sizes
    yield {**hints, **batches}
    yield dict(hints)


def _groups(nodes: list[fx.Node]) -> tuple[list[list[Any]], dict[Any, int]]:
    """List the free symbols of all input shapes, batches first, and their captured values.

    Sizes of different inputs that are the same thing (batch, token count) have a symbol each. Those of the same axis
    and the same captured value are changed together, and so are those of pictures of any resolution, in proportion; if
    that is wrong, the guards say so.
    """
    groups: dict[tuple[int, int], list[Any]] = {}
    hints: dict[Any, int] = {}
    for node in nodes:
        value = node.meta.get("val")
        for axis, size in enumerate(getattr(value, "shape", ())):
            if not isinstance(size, torch.SymInt):
                continue
            captured = captured_values(size)
            for symbol in expression(size).free_symbols:
                if symbol in captured and symbol not in hints:
                    hints[symbol] = int(captured[symbol])
                    groups.setdefault((axis, hints[symbol] if axis < 2 else 0), []).append(symbol)
    return [groups[key] for key in sorted(groups)], hints
