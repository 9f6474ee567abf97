"""Which input sizes a captured graph holds for, as checks that run before it.

A capture is made at one size and generalised; what the generalisation assumed is a list of guards. A guard that only
excludes edge sizes (batch 1, batch 64 and above, equal height and width) is dropped when the model is shown to do the
same there; the others are enforced, so that a size the graph can't do is refused and never a wrong picture.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from passes.errors import UsageError
from passes.program.torch_private import tree_flatten, tree_leaves, tree_map

Sizes = dict[str, int]


def holds(guard: str, inputs: Mapping[str, Any]) -> bool:
    """Tell whether one guard, an expression over the inputs `L["name"]`, holds for these inputs."""
    return bool(eval(_code(guard), {"__builtins__": {}, "max": max, "min": min, "L": inputs}))


_compiled: dict[str, Any] = {}


def _code(guard: str) -> Any:
    # export writes the guards itself: they hold sizes and arithmetic, nothing from outside
    if guard not in _compiled:
        _compiled[guard] = compile(guard, "<guard>", "eval")
    return _compiled[guard]


def ranges(symbols: Mapping[str, str], constraints: Mapping[str, Any]) -> list[str]:
    """Write the ranges that export gives to sizes as guards of their own.

    Args:
        symbols: as `input_symbols` gives them.
        constraints: by symbol, the range that export derived.
    """
    found = []
    for place, symbol in symbols.items():
        if symbol in constraints:
            interval = constraints[symbol]
            if interval.lower > 1:
                found.append(f"{place} >= {int(interval.lower)}")
            if interval.upper < 2**31:
                found.append(f"{place} <= {int(interval.upper)}")
    return found


def input_symbols(inputs: Mapping[str, Any], prefix: str = "L") -> dict[str, str]:
    """Give the symbol of every dynamic size: {"L['sample'].size()[0]": "s53", ...}."""
    found: dict[str, str] = {}
    for name, value in inputs.items():
        place = f"{prefix}[{name!r}]"
        if isinstance(value, Mapping):
            found.update(input_symbols(value, place))
        elif isinstance(value, Tensor):
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int):
                    found[f"{place}.size()[{axis}]"] = str(size)
    return found


def pictures(inputs: Any, fakes: Any) -> tuple[Sizes, Sizes]:
    """Give the example's heights, and its widths, of inputs [B, C, H, W] that have them dynamic, by symbol."""
    found: tuple[Sizes, Sizes] = ({}, {})
    for value, fake in zip(tree_leaves(inputs), tree_leaves(fakes), strict=True):
        if isinstance(fake, Tensor) and fake.dim() == 4:
            for sizes, axis in zip(found, (2, 3), strict=True):
                if not isinstance(fake.shape[axis], int):
                    sizes[str(fake.shape[axis])] = value.shape[axis]
    return found


def resized(inputs: Any, fakes: Any, sizes: Mapping[str, int]) -> Any:
    """Give zero inputs of other sizes: every dimension whose symbol is in `sizes` gets that size."""

    def change(value: Any, fake: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = [
            sizes.get(str(symbol), size) if not isinstance(symbol, int) else size
            for size, symbol in zip(value.shape, fake.shape, strict=True)
        ]
        # one element, expanded: a probe must not cost memory
        return torch.zeros((), dtype=value.dtype, device=value.device).expand(shape)

    return tree_map(change, inputs, fakes)


def probes(sizes: Sizes, upper: Mapping[str, int]) -> Iterator[Sizes]:
    """Give size assignments worth trying: one, beyond each upper bound, and pairs that are equal or double."""
    for symbol in sizes:
        yield {**sizes, symbol: 1}
        if symbol in upper:
            yield {**sizes, symbol: upper[symbol] + 1}
            yield {**sizes, symbol: 4 * upper[symbol] + 7}
    for symbol in sizes:
        for other in sizes:
            if other != symbol:
                yield {**sizes, symbol: sizes[other]}
                yield {**sizes, symbol: 2 * sizes[other]}


def doubled(sizes: Sizes) -> Iterator[Sizes]:
    """Give size assignments in which one size is doubled: divisors stay, accidental equalities of the example go."""
    for symbol in sizes:
        yield {**sizes, symbol: 2 * sizes[symbol]}


def remainders(found: tuple[Sizes, Sizes], factor: int) -> Iterator[Sizes]:
    """Give picture sizes that leave every kind of remainder when they are halved again and again.

    Args:
        found: as `pictures` gives them. Smaller ones than the largest are of pictures inside the network; they stay in
            proportion, rounded up as a halving rounds.
        factor: what a size is divided by in all, a power of two.
    """
    halvings = [2**power for power in range(factor.bit_length() - 1)]
    height, width = (max(hints.values(), default=1) for hints in found)
    for over in dict.fromkeys((*halvings, factor - 1)):
        sizes = _proportioned(found, height + over, width + factor - over)
        if sizes:
            yield sizes


def least_pictures(found: tuple[Sizes, Sizes], sizes: Sizes) -> Iterator[Sizes]:
    """Give size assignments in which the picture is about as small as can be, down to one pixel.

    Args:
        found: as `pictures` gives them.
        sizes: all sizes of the example.
    """
    for side in (1, 2, 4, 8, 16, 32, 64):
        least = _proportioned(found, side, side)
        if least:
            yield {**sizes, **least}


def _proportioned(found: tuple[Sizes, Sizes], height: int, width: int) -> Sizes:
    changed: Sizes = {}
    for hints, size in zip(found, (height, width), strict=True):
        largest = max(hints.values(), default=1)
        changed.update({symbol: -(-hint * size // largest) for symbol, hint in hints.items()})
    return changed


def widen(
    guards: Iterable[str],
    candidates: Iterator[Sizes],
    same: Callable[[Sizes], bool],
    inputs_at: Callable[[Sizes], Mapping[str, Any]],
    *,
    equalities: bool,
) -> tuple[str, ...]:
    """Drop the guards that exclude sizes at which the graph is right all the same.

    Args:
        guards: what the capture assumed.
        candidates: sizes to try.
        same: tells whether model and graph do the same at these sizes.
        inputs_at: makes inputs of these sizes, by name.
        equalities: whether to try sizes that break an equality. Most of these (divisors, equal batches) are what the
            graph is built on, and trying to break them is in vain.

    Returns:
        The guards that stay, without those that every input meets.
    """
    kept = [guard for guard in dict.fromkeys(guards) if "L[" in guard]
    for sizes in candidates:
        inputs = inputs_at(sizes)
        broken = [guard for guard in kept if not _holds_or_fails(guard, inputs)]
        if broken and (equalities or not any("==" in guard for guard in broken)) and same(sizes):
            kept = [guard for guard in kept if guard not in broken]
    return tuple(kept)


def _holds_or_fails(guard: str, inputs: Mapping[str, Any]) -> bool:
    try:
        return holds(guard, inputs)
    except ZeroDivisionError:
        return False


def check_inputs(
    graph_module: fx.GraphModule, guards: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse inputs of sizes that the graph does not hold for.

    Raises:
        UsageError: another number of inputs, a fixed dimension that differs, or a guard that is broken.
    """
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    values = tree_flatten((args, dict(kwargs)))[0]
    if len(values) != len(placeholders):
        raise UsageError(
            f"the program takes {len(placeholders)} inputs ({', '.join(node.name for node in placeholders)}), "
            f"not {len(values)}"
        )
    for node, value in zip(placeholders, values, strict=True):
        traced = node.meta.get("val")
        if isinstance(traced, Tensor) and isinstance(value, Tensor):
            fits = len(traced.shape) == value.dim() and all(
                not isinstance(known, int) or known == size
                for known, size in zip(traced.shape, value.shape, strict=True)
            )
            if not fits:
                wanted = ", ".join(str(size) if isinstance(size, int) else "any" for size in traced.shape)
                raise UsageError(f"input {node.name!r} is {list(value.shape)}; the program was captured for [{wanted}]")
    if not guards:
        return
    inputs = dict(zip(input_names(graph_module), args, strict=False)) | dict(kwargs)
    for guard in guards:
        if not _holds_or_fails(guard, inputs):
            multiple = re.fullmatch(r"[^=]*\.size\(\)\[\d+\] % (\d+) == 0", guard)
            words = f" (a multiple of {multiple[1]})" if multiple else ""
            sizes = {
                node.name: list(value.shape)
                for node, value in zip(placeholders, values, strict=True)
                if isinstance(value, Tensor)
            }
            raise UsageError(
                f"the program can't take sizes {sizes}: it needs {readable(guard)}{words}; choose another size, or "
                "capture at an example of this one"
            )


def input_names(graph_module: fx.GraphModule) -> list[str]:
    """Give the names of the positional inputs."""
    return list(inspect.signature(graph_module.forward).parameters)


def readable(guard: str) -> str:
    """Write a guard as people would: sample.size(2) % 2 == 0."""
    names = re.sub(r"L\['(\w+)'\]", r"\1", guard)
    names = re.sub(r"\['(\w+)'\]", r".\1", names)
    return re.sub(r"\.size\(\)\[(\d+)\]", r".size(\1)", names)
