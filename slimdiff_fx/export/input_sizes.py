"""Which sizes an exported file takes, for its metadata and for people."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from passes.program.guards import holds, input_names
from passes.program.inputs import example_tensors, input_nodes, symbol_roles, unflatten
from passes.program.program import Program
from passes.program.size_limits import SizeLimit, size_limit
from passes.program.sized_inputs import shape_at
from passes.program.torch_private import captured_size, expression, tree_flatten
from slimdiff_fx.export.parity import input_names as file_names

# Under this key the sizes are in a file's metadata, as JSON.
SIZES = "slimdiff_fx.sizes"
_PICTURE = 4


@dataclass(frozen=True)
class InputSizes:
    """What the inputs of a file may measure.

    Attributes:
        inputs: every input's shape; a dynamic size under its name ("batch", "height", "width", "tokens").
        limits: what each of these names may be, the others being as captured.
    """

    inputs: Mapping[str, tuple[int | str, ...]]
    limits: Mapping[str, SizeLimit] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; each limit has its words beside its numbers."""
        numbers = {
            name: {"multiple": limit.multiple, "least": limit.least, "most": limit.most, "but": list(limit.but)}
            for name, limit in self.limits.items()
        }
        sizes = {name: {**numbers[name], "words": str(limit)} for name, limit in self.limits.items()}
        return {"inputs": {name: list(shape) for name, shape in self.inputs.items()}, "sizes": sizes}

    def to_json(self) -> str:
        """Give what stands in a file's metadata under `SIZES`."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        fixed = [
            f"{name} {'×'.join(map(str, shape)) or 'a number'}"
            for name, shape in self.inputs.items()
            if len(shape) == _PICTURE and all(isinstance(size, int) for size in shape[1:])
        ]
        return "; ".join([*(f"{name}: {limit}" for name, limit in self.limits.items()), *fixed])


def input_sizes(program: Program) -> InputSizes:
    """Work out from a program's guards which sizes it takes, one size at a time.

    A picture that the program would give back in another size (a transformer of patches drops the row that fills none)
    counts as one that it doesn't take: no scheduler could go on with it.

    Args:
        program: what is exported.
    """
    roles = symbol_roles(program)
    hints = {role: max(hint for other, hint in roles.values() if other == role) for role, _ in roles.values()}
    inputs = dict(
        zip(
            file_names(program),
            (_named(node.meta["val"], example, roles) for node, example in _pairs(program)),
            strict=True,
        )
    )
    limits = {}
    for role in hints:
        limit = size_limit(functools.partial(_takes, program, roles, hints, role))
        if limit is not None:
            limits[role] = limit
    return InputSizes(inputs, limits)


def fixed_sizes(program: Program) -> InputSizes:
    """Give the sizes of a file that holds for the example's alone."""
    shapes = [tuple(example.shape) for example in example_tensors(program)]
    return InputSizes(dict(zip(file_names(program), shapes, strict=True)))


def _pairs(program: Program) -> list[tuple[Any, Tensor]]:
    return list(zip(input_nodes(program), example_tensors(program), strict=True))


def _named(value: Tensor, example: Tensor, roles: Mapping[Any, tuple[str, int]]) -> tuple[int | str, ...]:
    largest = {role: max(hint for other, hint in roles.values() if other == role) for role, _ in roles.values()}
    shape: list[int | str] = []
    for size, traced in zip(value.shape, example.shape, strict=True):
        if not isinstance(size, torch.SymInt):
            shape.append(traced)
        elif expression(size) in roles:
            role, hint = roles[expression(size)]
            shape.append(role if hint == largest[role] else f"ceil({role}/{round(largest[role] / hint)})")
        else:
            shape.append(str(expression(size)))
    return tuple(shape)


def _takes(
    program: Program, roles: Mapping[Any, tuple[str, int]], hints: Mapping[str, int], role: str, size: int
) -> bool:
    # Pictures inside the network are smaller than its input: they keep their share.
    sizes = {
        symbol: -(-size * hint // hints[role]) if other == role else hint for symbol, (other, hint) in roles.items()
    }
    shapes = [shape_at(node.meta["val"], sizes) for node, _ in _pairs(program)]
    tensors = [torch.empty(shape, device="meta") for shape in shapes]
    args, kwargs = unflatten(program, tensors)
    inputs = dict(zip(input_names(program.graph_module), args, strict=False)) | kwargs
    try:
        if not all(holds(guard, inputs) for guard in program.guards):
            return False
    except ZeroDivisionError:
        return False
    return _same_picture(program, shapes, sizes)


def _same_picture(program: Program, shapes: list[tuple[int, ...]], sizes: Mapping[Any, int]) -> bool:
    """Tell whether the prediction has the size of the first input, if it has in the example."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    leaf = tree_flatten(output.args)[0][0]
    result, first = getattr(leaf, "meta", {}).get("val"), example_tensors(program)[0]
    if not isinstance(result, Tensor) or result.dim() != _PICTURE or first.dim() != _PICTURE:
        return True
    traced = [int(captured_size(size)) if isinstance(size, torch.SymInt) else size for size in result.shape[2:]]
    return traced != list(first.shape[2:]) or shape_at(result, sizes)[2:] == shapes[0][2:]


def shapes_in_words(program: Program) -> str:
    """Say at which sizes the file is to be called, "sample 2×4×64×64, timestep 2, ..."."""
    pairs = zip(input_nodes(program), example_tensors(program), strict=True)
    return ", ".join(f"{node.name} {'×'.join(map(str, tensor.shape)) or 'a number'}" for node, tensor in pairs)
