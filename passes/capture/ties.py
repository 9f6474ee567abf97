"""Which inputs share a size: named dimensions that stand in several places are one size by contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.export import Dim

from passes.program.torch_private import require, tree_flatten

Place = tuple[int, int]


def dynamic_axes(dynamic_shapes: Any, inputs: tuple[Any, Any]) -> list[dict[int, Any]]:
    """Give, for every flat input, its dynamic axes and what was asked for them.

    Args:
        dynamic_shapes: as `torch.export.export` takes it.
        inputs: (args, kwargs).
    """
    args, kwargs = inputs
    if dynamic_shapes is None:
        return [{} for _ in tree_flatten(inputs)[0]]
    shapes = list(dynamic_shapes.values() if isinstance(dynamic_shapes, Mapping) else dynamic_shapes)
    found: list[dict[int, Any]] = []

    def visit(shape: Any, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                visit((shape or {}).get(name), part)
        elif isinstance(value, (list, tuple)):
            for position, part in enumerate(value):
                visit(shape[position] if shape else None, part)
        elif value is not None:
            axes = shape.items() if isinstance(shape, Mapping) else enumerate(shape or ())
            found.append({axis: size for axis, size in axes if size is not None})

    for shape, value in zip(shapes, (*args, *kwargs.values()), strict=True):
        visit(shape, value)
    return found


def tied_places(dynamic_shapes: Any, inputs: tuple[Any, Any]) -> list[list[Place]]:
    """Give the places (flat input, axis) of every named dimension that stands in more than one."""
    places: dict[str, list[Place]] = {}
    for at, axes in enumerate(dynamic_axes(dynamic_shapes, inputs)):
        for axis, size in axes.items():
            if isinstance(size, Dim):
                places.setdefault(size.__name__, []).append((at, axis))
    return [found for found in places.values() if len(found) > 1]


def tie_inputs(module: nn.Module, dynamic_shapes: Any, inputs: tuple[Any, Any]) -> Callable[[], None]:
    """Tell a trace of a module, before it begins, which input sizes are equal.

    Returns:
        What takes the check off the module again.
    """
    ties = tied_places(dynamic_shapes, inputs)

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = tree_flatten((args, kwargs))[0]
        for (first, first_axis), *rest in ties:
            for at, axis in rest:
                require(values[first].shape[first_axis] == values[at].shape[axis])

    return module.register_forward_pre_hook(check, with_kwargs=True).remove
