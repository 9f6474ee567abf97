"""A graph as Dynamo hands it to a backend, as a module with names of its own again.

Dynamo lifts parameters and buffers to inputs, and passes sizes beside the tensors they are of. Here parameters become
attributes under the model's dotted names, and sizes are read off the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.fx.node import map_arg

from passes.errors import PlanError
from passes.program.module_tree import assemble
from passes.program.sizes import is_fixed
from passes.program.torch_private import SOURCE_STEP, SOURCE_TENSOR, own_parts

_STEP = re.compile(SOURCE_STEP)
_TENSOR = re.compile(SOURCE_TENSOR)
_SIZE = re.compile(r"(?P<tensor>.+)\.size\(\)\[(?P<axis>\d+)\]")


@dataclass(frozen=True)
class DynamoGraph:
    """What a backend was given.

    Attributes:
        module: the graph, which gives one tensor; parameters and buffers are attributes under its names, shared.
        inputs: places, among the backend's inputs, of those that the module still takes.
        state: places of the parameters and buffers that were lifted.
        constants: numbers of the model's modules that were lifted, and are written into the graph, by place.
        args: example inputs of the module.
        dynamic_shapes: which of their sizes are open, as `torch.export` takes it.
    """

    module: fx.GraphModule
    inputs: tuple[int, ...]
    state: tuple[int, ...]
    constants: Mapping[int, float]
    args: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]


def unlift(graph_module: fx.GraphModule, example_inputs: Sequence[Any], sites: Collection[str]) -> DynamoGraph:
    """Undo the lifting; what is given is left as it is.

    Args:
        graph_module: as a backend gets it; parameters that are attributes already stay so.
        example_inputs: likewise.
        sites: names of the model's sites; they tell where in the compiled code the model begins.

    Raises:
        PlanError: the graph doesn't hold the whole of these sites' model, gives more than one result, or takes a number
            that is no tensor's size.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(_only(graph.graph_copy(graph_module.graph, copies)))
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    sources = [_source(node) for node in placeholders]
    lifted = {
        place: path
        for place, (source, value) in enumerate(zip(sources, example_inputs, strict=True))
        if isinstance(value, Tensor) and _TENSOR.fullmatch(source) and (path := ".".join(_STEP.findall(source)))
    }
    own = {str(node.target) for node in graph_module.graph.nodes if node.op in ("get_attr", "call_module")}
    root = _root([*lifted.values(), *own], sites)
    owner = nn.Module()
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            part = attrgetter(str(node.target))(graph_module)
            node.target = str(node.target).removeprefix(root)
            _put(owner, node.target, part)
    for place, path in lifted.items():
        _put(owner, path.removeprefix(root), example_inputs[place])
        _replace(graph, copies[placeholders[place]], path.removeprefix(root))
    taken = [place for place in range(len(placeholders)) if place not in lifted]
    tensors = {sources[place]: copies[placeholders[place]] for place in taken}
    inputs, constants = [], {}
    for place in taken:
        if _is_number(placeholders[place]) and _STEP.search(sources[place]):
            constants[place] = float(example_inputs[place])
            _write_in(graph, copies[placeholders[place]], constants[place])
        elif isinstance(example_inputs[place], Tensor) and not _is_number(placeholders[place]):
            inputs.append(place)
        else:
            _read_off(graph, copies[placeholders[place]], sources[place], tensors)
    graph.lint()
    return DynamoGraph(
        assemble(owner, graph),
        tuple(inputs),
        tuple(lifted),
        constants,
        tuple(example_inputs[place] for place in inputs),
        tuple(_open_sizes(placeholders[place]) for place in inputs),
    )


def _only(results: Any) -> Any:
    if isinstance(results, fx.Node):
        return results
    if len(results) != 1:
        raise PlanError(f"the compiled code gives {len(results)} tensors; compile the denoiser alone, which gives one")
    return results[0]


def _source(node: fx.Node) -> str:
    """Say where Dynamo took an input from; "" where it doesn't say."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    return str(name() if callable(name) else name)


def _root(paths: Sequence[str], sites: Collection[str]) -> str:
    """Find what the model's own names come after in the compiled code: "" or a dotted prefix."""
    first = min(sites)
    roots = {path[: path.index(first)] for path in paths if first + "." in path}
    root = min(roots, key=len, default="")
    missing = [site for site in sites if not any(path.startswith(f"{root}{site}.") for path in paths)]
    if missing:
        raise PlanError(
            f"this graph lacks {len(missing)} of the plan's {len(sites)} sites, such as {missing[0]!r}: a graph break "
            "has split the model, or it is another one; compile the denoiser itself, with fullgraph=True to see where "
            "a break is"
        )
    return root


def _put(owner: nn.Module, path: str, part: Any) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in own_parts(owner):
            owner.add_module(name, nn.Module())
        owner = owner.get_submodule(name)
    if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
        owner.register_buffer(leaf, part)
    else:
        setattr(owner, leaf, part)


def _replace(graph: fx.Graph, placeholder: fx.Node, path: str) -> None:
    with graph.inserting_before(placeholder):
        placeholder.replace_all_uses_with(graph.get_attr(path))
    graph.erase_node(placeholder)


def _is_number(placeholder: fx.Node) -> bool:
    """Say whether an input is a Python float that Dynamo passes as a tensor."""
    return bool(getattr(placeholder.meta.get("grapharg"), "pass_arg_as_tensor", False))


def _write_in(graph: fx.Graph, placeholder: fx.Node, value: float) -> None:
    """Put a number in the place of what reads it out of its tensor."""
    for reader in list(placeholder.users):
        if reader.op != "call_method" or reader.target != "item":
            raise PlanError(
                f"the compiled code computes with {placeholder.name} as a tensor; compile without dynamic=True"
            )
        for user in list(reader.users):
            user.args, user.kwargs = _replaced(user.args, reader, value), _replaced(user.kwargs, reader, value)
        graph.erase_node(reader)
    graph.erase_node(placeholder)


def _replaced(arguments: Any, old: fx.Node, new: float) -> Any:
    return map_arg(arguments, lambda node: new if node is old else node)


def _read_off(graph: fx.Graph, placeholder: fx.Node, source: str, tensors: Mapping[str, fx.Node]) -> None:
    """Replace an input that is a size by a node that reads the size from its tensor."""
    found = _SIZE.fullmatch(source)
    tensor = tensors.get(found["tensor"]) if found else None
    if tensor is None or not found:
        if placeholder.users:
            raise PlanError(
                f"the compiled code takes the number {source or placeholder.name}, which would be fixed at the value "
                "it has now; pass it as a tensor (a timestep as torch.tensor(...))"
            )
        graph.erase_node(placeholder)
        return
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        size = graph.call_function(torch.ops.aten.sym_size.int, (tensor, int(found["axis"])))
    placeholder.replace_all_uses_with(size)
    graph.erase_node(placeholder)


def _open_sizes(placeholder: fx.Node) -> dict[int, Any] | None:
    value = placeholder.meta.get("example_value")
    if not isinstance(value, Tensor):
        return None
    return {axis: Dim.AUTO for axis, size in enumerate(value.shape) if not is_fixed(size)}
