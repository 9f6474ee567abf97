"""Small questions about a raised graph's nodes, shared by the passes that look for shapes in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx, nn

from passes.program.program import Program
from passes.program.torch_private import own_parameters

aten = torch.ops.aten

# One input, one result, element by element in place: layout, dtype, dropout in evaluation mode.
PASSED = frozenset(
    {
        aten.contiguous.default,
        aten.clone.default,
        aten.detach.default,
        aten.alias.default,
        aten.to.dtype,
        aten.to.device,
        aten.to.other,
        aten.to.dtype_layout,
        aten._to_copy.default,
        aten.type_as.default,
    }
)


class Refused(Exception):
    """Why a site can't be handled: what was looked at isn't understood, or is used elsewhere too."""


def linear_of(program: Program, node: fx.Node) -> nn.Linear | None:
    """Give the linear that a node calls, or None."""
    if node.op != "call_module":
        return None
    module = program.module(str(node.target))
    return module if type(module) is nn.Linear else None


def is_dropout(program: Program, node: fx.Node) -> bool:
    """Tell whether a node is a dropout that does nothing."""
    if node.op == "call_function" and node.target is aten.dropout.default:
        return bool(len(node.args) < 3 or node.args[1] == 0 or not node.args[2])
    return node.op == "call_module" and isinstance(program.module(str(node.target)), nn.Dropout)


def passes_on(program: Program, node: fx.Node) -> bool:
    """Tell whether a node hands its first input on: same values, same shape."""
    return (node.op == "call_function" and node.target in PASSED) or is_dropout(program, node)


def is_size(node: fx.Node) -> bool:
    """Tell whether a node only asks for a size."""
    return node.op == "call_function" and node.target is aten.sym_size.int


def readers(node: fx.Node) -> list[fx.Node]:
    """Give the nodes that read a tensor's values; those that only ask for a size are left out."""
    return [user for user in node.users if not is_size(user)]


def upwards(node: fx.Node) -> Iterator[fx.Node]:
    """Follow first inputs upwards, beginning with the node itself."""
    while True:
        yield node
        if not node.args or not isinstance(node.args[0], fx.Node):
            return
        node = node.args[0]


def common_path(paths: list[str]) -> str:
    """Give the dotted path that all paths begin with, or "" if there is none."""
    split = [path.split(".") for path in paths]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    # A path that is one of them holds a linear, not the site.
    return ".".join(shared) if ".".join(shared) not in paths else ".".join(shared[:-1])


class Ownership:
    """Who calls what and who holds what in a program: counted once, asked for every linear.

    Args:
        program: a raised program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._calls = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_module")
        self._holders = Counter(
            id(parameter)
            for module in program.graph_module.modules()
            for parameter in own_parameters(module).values()
            if parameter is not None
        )

    def trouble(self, path: str) -> str | None:
        """Say why a linear isn't one site's own: it is called twice, or its parameters are tied; None if it is."""
        if self._calls[path] > 1:
            return f"linear {path!r} is called more than once"
        if any(self._holders[id(parameter)] > 1 for parameter in self._program.module(path).parameters()):
            return f"linear {path!r} shares its weight with another module"
        return None
