"""Make inputs that a program wasn't captured on: other values, another batch, other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from passes.errors import UsageError
from passes.program.guards import check_inputs
from passes.program.program import Program
from passes.program.torch_private import captured_values, expression, tree_flatten, tree_unflatten

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
    leaves, spec = tree_flatten((program.args, dict(program.kwargs)))
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    groups, hints = _groups(nodes)
    refusal: UsageError | None = None
    for sizes in _assignments(groups, hints, batch, turn):
        generator = torch.Generator().manual_seed(seed + turn)
        drawn = [
            _draw(leaf, node, sizes, program.timestep, generator) for leaf, node in zip(leaves, nodes, strict=True)
        ]
        args, kwargs = tree_unflatten(drawn, spec)
        try:
            check_inputs(program.graph_module, program.guards, args, kwargs)
        except UsageError as error:
            refusal = error
        else:
            return args, kwargs
    raise UsageError(
        f"no other size to validate at was found ({refusal}); pass `inputs` that the program takes"
    ) from refusal


def _assignments(groups: list[list[Any]], hints: Mapping[Any, int], batch: int, turn: int) -> Iterator[dict[Any, int]]:
    """Propose sizes by symbol: small and not square first, then square, then as captured, at last the batch too."""
    first, free = groups[:1], groups[1:]
    batches = {symbol: batch for group in first for symbol in group}
    for spread in (1, 0):
        for step in STEPS:
            sizes = dict(batches)
            for position, group in enumerate(free):
                # The other way round at the second turn.
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


def _draw(leaf: Any, node: fx.Node, sizes: Mapping[Any, int], timestep: str | None, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    shape = [_evaluate(size, sizes) for size in node.meta["val"].shape]
    if node.name == timestep:
        return torch.randint(0, 1000, shape, generator=generator).to(leaf)
    if leaf.is_floating_point() and leaf.numel() and not _is_whole(leaf):
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        spread = leaf.double().std(correction=0).item()
        return (noise * (spread or 1.0) + leaf.double().mean().item()).to(leaf)
    # Labels, masks, sizes: only values that occur are known to be allowed.
    pool = leaf.flatten() if leaf.numel() else torch.zeros(1, dtype=leaf.dtype)
    count = 1
    for size in shape:
        count *= size
    picked = pool[torch.randint(0, pool.numel(), (count,), generator=generator).to(pool.device)].reshape(shape)
    if shape and len(shape) > 1 and _is_mask(leaf):
        picked[..., 0] = leaf.max()  # a mask that hides everything has no softmax
    return picked


def _evaluate(size: Any, sizes: Mapping[Any, int]) -> int:
    return int(expression(size).xreplace(dict(sizes))) if isinstance(size, torch.SymInt) else int(size)


def _is_whole(leaf: Tensor) -> bool:
    return bool((leaf == leaf.round()).all())


def _is_mask(leaf: Tensor) -> bool:
    return bool(((leaf == 0) | (leaf == 1)).all())
