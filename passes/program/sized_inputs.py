"""Make inputs of a program at sizes that are chosen: another batch, height, width or text length, and other values.

A size is chosen for each symbol of the inputs' shapes (`passes.program.inputs.symbol_roles` says what a symbol stands
for). A `Fill` says which values go in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from passes.errors import UsageError
from passes.program.guards import check_inputs
from passes.program.inputs import input_nodes
from passes.program.program import Program
from passes.program.torch_private import expression, tree_flatten, tree_unflatten

Call = tuple[tuple[Any, ...], dict[str, Any]]
# From a traced input, the shape that is wanted, and whether it is the timestep: a tensor of that shape and its dtype.
Fill = Callable[[Tensor, tuple[int, ...], bool], Tensor]
TIMESTEPS = 1000


def sized_inputs(program: Program, sizes: Mapping[Any, int], fill: Fill) -> Call:
    """Make inputs of the program at one choice of sizes. Whether the program's guards accept them is not checked.

    Args:
        program: its traced inputs and their symbolic shapes are what these are made from.
        sizes: of each symbol. Sizes that the program holds fixed stay.
        fill: gives the values; an input that is no tensor stays as it was traced.

    Returns:
        args and kwargs.
    """
    leaves, spec = tree_flatten((tuple(program.args), dict(program.kwargs)))
    made = [
        fill(leaf, shape_at(node.meta["val"], sizes), node.name == program.timestep)
        if isinstance(leaf, Tensor)
        else leaf
        for leaf, node in zip(leaves, input_nodes(program), strict=True)
    ]
    args, kwargs = tree_unflatten(made, spec)
    return args, kwargs


def first_accepted(program: Program, proposals: Iterable[Mapping[Any, int]], fill: Callable[[], Fill]) -> Call:
    """Make inputs at the first of several choices of sizes that the program's guards accept.

    Args:
        program: as for `sized_inputs`.
        proposals: sizes by symbol, the best first.
        fill: makes what fills them, anew for each proposal: what is drawn doesn't depend on what was refused before.

    Raises:
        UsageError: the guards accept none; it says why the last was refused.
    """
    refusal: UsageError | None = None
    for sizes in proposals:
        args, kwargs = sized_inputs(program, sizes, fill())
        try:
            check_inputs(program.graph_module, program.guards, args, kwargs)
        except UsageError as error:
            refusal = error
        else:
            return args, kwargs
    raise refusal or UsageError("no sizes were proposed")


def size_at(size: int | torch.SymInt, sizes: Mapping[Any, int]) -> int:
    """Give a size that may be symbolic as a number, for sizes by symbol."""
    return int(expression(size).xreplace(dict(sizes))) if isinstance(size, torch.SymInt) else int(size)


def shape_at(value: Tensor, sizes: Mapping[Any, int]) -> tuple[int, ...]:
    """Give a symbolic shape as numbers, for sizes by symbol."""
    return tuple(size_at(size, sizes) for size in value.shape)


def repeated(example: Tensor, shape: tuple[int, ...], is_timestep: bool = False) -> Tensor:
    """Fill with the traced input's own rows and columns, again and again."""
    for axis, size in enumerate(shape):
        if size != example.shape[axis]:
            example = example.index_select(axis, torch.arange(size, device=example.device) % example.shape[axis])
    return example.contiguous()


def like_example(seed: int) -> Fill:
    """Fill with random values that the model surely takes: of the example's mean and spread, or that occur in it."""
    generator = torch.Generator().manual_seed(seed)

    def fill(example: Tensor, shape: tuple[int, ...], is_timestep: bool) -> Tensor:
        if is_timestep:
            return torch.randint(0, TIMESTEPS, shape, generator=generator).to(example)
        if example.is_floating_point() and example.numel() and not bool((example == example.round()).all()):
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            spread = example.double().std(correction=0).item()
            return (noise * (spread or 1.0) + example.double().mean().item()).to(example)
        # Labels, masks, sizes: only values that occur are known to be allowed.
        pool = example.flatten() if example.numel() else torch.zeros(1, dtype=example.dtype)
        count = torch.Size(shape).numel()
        picked = pool[torch.randint(0, pool.numel(), (count,), generator=generator).to(pool.device)].reshape(shape)
        if len(shape) > 1 and _is_mask(example):
            picked[..., 0] = example.max()  # a mask that hides everything has no softmax
        return picked

    return fill


def like_kind(seed: int) -> Fill:
    """Fill with random values of the example's kind, those that don't occur in it too: noise, timesteps, masks, labels.

    A mask is mixed even where the traced one hides nothing: so what an export made of it is seen.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(example: Tensor, shape: tuple[int, ...], is_timestep: bool) -> Tensor:
        if is_timestep:
            return torch.randint(0, TIMESTEPS, shape, generator=generator).to(example.dtype)
        if example.dtype == torch.bool:
            return torch.rand(shape, generator=generator) < 0.7
        if not example.is_floating_point():
            return torch.randint(0, int(example.max()) + 1, shape, generator=generator).to(example.dtype)
        if example.numel() > 1 and _is_mask(example):
            mask = (torch.rand(shape, generator=generator) < 0.7).to(example.dtype)
            mask[..., 0] = 1
            return mask
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(example.dtype)

    return fill


def _is_mask(example: Tensor) -> bool:
    return bool(((example == 0) | (example == 1)).all())
