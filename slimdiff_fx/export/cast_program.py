"""Bring a program to half precision as diffusers does it: half weights, but timestep waves in fp32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.errors import ExportError
from passes.program.program import Program
from passes.program.torch_private import tree_leaves, tree_map
from slimdiff_fx.export.merged_attention import ATTEND

_WAVES = (torch.ops.aten.sin.default, torch.ops.aten.cos.default)
# These want all their arguments in one dtype; everything else promotes.
_STRICT = (
    torch.ops.aten.scaled_dot_product_attention.default,
    ATTEND,
    torch.ops.aten.matmul.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.group_norm.default,
    torch.ops.aten.layer_norm.default,
)


def require_float32(program: Program, runtime: str) -> None:
    """Refuse a program whose weights aren't all float32.

    Raises:
        ExportError: names the runtime that takes no other.
    """
    if {value.dtype for value in program.graph_module.parameters() if value.is_floating_point()} - {torch.float32}:
        raise ExportError(f'{runtime} takes a float32 program; load the model with `dtype="float32"`')


def cast_program(program: Program, dtype: torch.dtype) -> Program:
    """Give the program with weights, inputs and result in another floating dtype.

    What feeds a sine or a cosine stays as it was: a timestep times a frequency has no digits left of the decimal point
    in half precision, and the embedding would be noise. Its result is cast where it enters the first layer.
    Timesteps keep their dtype.

    Args:
        program: untouched; weights are copied.
        dtype: floating dtype, such as torch.float16.
    """
    exact = _feeding_waves(program.graph)
    cast = program.copy()
    module = cast.graph_module
    kept = {str(node.target) for node in cast.graph.nodes if node.op == "get_attr" and node.name in exact}
    halves: dict[int, Tensor] = {}  # a tensor that two paths share stays one
    for path, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        if tensor.is_floating_point() and path not in kept:
            if id(tensor) not in halves:
                half = tensor.detach().to(dtype)
                is_parameter = isinstance(tensor, nn.Parameter)
                halves[id(tensor)] = nn.Parameter(half, requires_grad=False) if is_parameter else half
            setattr(module.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], halves[id(tensor)])
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" or node.target in _STRICT:
            with graph.inserting_before(node):
                node.args, node.kwargs = fx.map_arg(
                    (node.args, node.kwargs), lambda argument: _cast_node(graph, argument, dtype)
                )
        elif node.op == "output":
            with graph.inserting_before(node):
                node.args = fx.map_arg(node.args, lambda argument: _cast_node(graph, argument, dtype))
    graph.lint()
    module.recompile()
    names = {id(leaf): name for leaf, name in zip(_leaves(program), _names(program), strict=True)}

    def cast_input(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        name = names[id(value)]
        return value if name in exact or name == program.timestep else value.to(dtype)

    return replace(
        program,
        graph_module=module,
        args=tree_map(cast_input, program.args),
        kwargs=tree_map(cast_input, dict(program.kwargs)),
    )


def _feeding_waves(graph: fx.Graph) -> set[str]:
    """Name every node that a sine or cosine depends on."""
    pending = [node for node in graph.nodes if node.op == "call_function" and node.target in _WAVES]
    found: set[str] = set()
    while pending:
        node = pending.pop()
        if node.name in found or node.op == "call_module":
            continue
        found.add(node.name)
        pending.extend(node.all_input_nodes)
    return found


def _cast_node(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return node
    cast = graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
    cast.meta["val"] = value.to(dtype)
    return cast


def _leaves(program: Program) -> list[Any]:
    return tree_leaves((tuple(program.args), dict(program.kwargs)))


def _names(program: Program) -> list[str]:
    return [node.name for node in program.graph.nodes if node.op == "placeholder"]
