"""Inputs of a program at the sizes that are to be timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from passes.errors import UsageError
from passes.program.guards import check_inputs
from passes.program.inputs import example_tensors, symbol_roles
from passes.program.program import Program
from passes.program.sized_inputs import repeated, sized_inputs
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.other_libraries import first_line


def inputs_at(program: Program, sizes: Mapping[str, int | None]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make inputs of other sizes from the traced ones: their rows and columns again and again.

    Args:
        program: with dynamic sizes.
        sizes: "batch", "height", "width" and "tokens"; None leaves the traced one.

    Returns:
        args and kwargs for the program.

    Raises:
        UsageError: the program holds such a size fixed.
    """
    roles = symbol_roles(program)
    wanted = {name: size for name, size in sizes.items() if size is not None}
    values = {symbol: wanted.get(role, hint) for symbol, (role, hint) in roles.items()}
    known = {role: values[symbol] for symbol, (role, _) in roles.items()}
    if "size" in known:  # height and width are one symbol
        values |= {symbol: wanted.get("height", hint) for symbol, (role, hint) in roles.items() if role == "size"}
        known |= dict.fromkeys(("height", "width"), wanted.get("height", known["size"]))
    examples = example_tensors(program)
    for name, size in wanted.items():
        found = known.get(name, _fixed(examples, name))
        if found != size:
            raise UsageError(f"the program was captured for {name} {found} alone and can't be timed at {size}")
    return sized_inputs(program, values, repeated)


def check_timed_sizes(program: Program, policy: KeepLatency) -> None:
    """Refuse sizes at which the denoiser can't be timed, before anything slow is done.

    Raises:
        UsageError: the program doesn't hold for them, or they don't fit into memory.
    """
    try:
        args, kwargs = inputs_at(program, policy.sizes)
    except RuntimeError as error:  # torch's allocator
        given = ", ".join(f"{name} {size}" for name, size in policy.sizes.items() if size is not None)
        raise UsageError(f"inputs of {given} can't be made ({first_line(error)}); time at smaller sizes") from error
    check_inputs(program.graph_module, program.guards, args, kwargs)


def _fixed(examples: list[Tensor], name: str) -> int | None:
    """Give the size that the traced picture has."""
    picture = next((each for each in examples if each.dim() == 4), None)
    axis = {"batch": 0, "height": 2, "width": 3}.get(name)
    return None if picture is None or axis is None else picture.shape[axis]
