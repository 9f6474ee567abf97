"""Lower a program to a `torch.export.ExportedProgram`, with batch and sizes still dynamic."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from passes.arguments import check_kind
from passes.capture.lowered_guards import shown_guards
from passes.capture.ties import tied_places
from passes.errors import ExportError
from passes.program.program import Program
from passes.program.sizes import concrete
from passes.program.torch_private import one_is_dynamic, require, write_guards


def lower(program: Program) -> ExportedProgram:
    """Export a program's graph again, undecomposed.

    It holds for every size that the program does, a batch of 1 and of 65 included, and says in words which sizes it
    refuses. State-dict keys stay.

    Examples:
        >>> exported = slimdiff_fx.lower(slim)
        >>> torch.allclose(exported.module()(*inputs), slim(*inputs), atol=1e-5)
        True

    Args:
        program: what to lower; it is left as it is.

    Returns:
        The exported program; `.module()` runs it.

    Raises:
        UsageError: something else than a program.
        ExportError: torch.export could not trace it.
    """
    check_kind("program", program, Program, "the program that slimdiff_fx.capture or convert gives")
    prepared = program.copy()
    _tie_sizes(prepared)
    _make_contiguous(prepared)
    prepared.graph_module.recompile()
    try:
        # Without it a size of 1 would be taken for a constant, and the graph be bound to 2 and more.
        with torch.no_grad(), one_is_dynamic():
            exported = torch.export.export(
                prepared.graph_module,
                program.args,
                dict(program.kwargs),
                dynamic_shapes=program.dynamic_shapes,
                strict=False,
            )
    except Exception as error:  # the tracer raises many kinds
        raise ExportError(f"torch.export could not lower the program: {str(error).strip().splitlines()[0]}") from error
    # The file then accepts the sizes that the program accepts, and its guards say so to users without this library.
    write_guards(exported, shown_guards(program, exported))
    return exported


def _tie_sizes(program: Program) -> None:
    """State at the beginning of the graph which input sizes are equal.

    The tracer would find out by itself, but too late: it has to decide before that whether a mask of another batch size
    is broadcast.
    """
    graph = program.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    with graph.inserting_before(placeholders[-1].next):
        for first, *rest in tied_places(program.dynamic_shapes, (program.args, dict(program.kwargs))):
            size = _size(graph, placeholders, first)
            for place in rest:
                equal = graph.call_function(operator.eq, (size, _size(graph, placeholders, place)))
                graph.call_function(require, (equal,))


def _make_contiguous(program: Program) -> None:
    """Make the input of each convolution contiguous where it isn't.

    For such an input the tracer asks whether sizes are above 1, to choose a layout, and would bind the program to that.
    The values are the same.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.op != "call_module" or not isinstance(program.module(str(node.target)), nn.Conv2d):
            continue
        source = node.args[0]
        if isinstance(source, fx.Node) and not _is_contiguous(source):
            with graph.inserting_before(node):
                node.args = (graph.call_function(torch.ops.aten.contiguous.default, (source,)), *node.args[1:])


def _is_contiguous(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    # Computed from the example's sizes: asking a symbolic tensor for its strides would add guards.
    wanted = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if concrete(stride) != wanted and concrete(size) != 1:
            return False
        wanted *= concrete(size)
    return True


def _size(graph: fx.Graph, placeholders: list[fx.Node], place: tuple[int, int]) -> fx.Node:
    return graph.call_function(torch.ops.aten.sym_size.int, (placeholders[place[0]], place[1]))
