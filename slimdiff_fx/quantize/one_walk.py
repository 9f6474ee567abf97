"""One calibration run for both: this project's observers and PT2E's in the same graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from passes.calibrate.instrument import PREFIX, Instrumented, instrument
from passes.program.module_tree import assemble
from passes.program.program import Program
from passes.program.torch_private import share_signature
from passes.sites.site import Site
from slimdiff_fx.quantize.pt2e import convert_pt2e, insert_pt2e_observers

aten = torch.ops.aten


@dataclass(frozen=True)
class OneWalk:
    """A program in which both kinds of observers sit. Made by `prepare_both`.

    Attributes:
        instrumented: give it to `passes.calibrate.calibrate.calibrate`, or call it; its statistics are for planning.
        prepared: its graph; PT2E's observers are in it.
    """

    instrumented: Instrumented
    prepared: fx.GraphModule

    def quantized(self) -> Program:
        """Give the dense program in int8, by the ranges seen so far; this walk can go on afterwards."""
        ranged = _copy(self.prepared, lambda node: not str(node.target).startswith(f"{PREFIX}."))
        return convert_pt2e(self.instrumented.dense, ranged)


def prepare_both(program: Program, sites: Sequence[Site], quantizer: Any = None, **options: Any) -> OneWalk:
    """Insert this project's observers, then PT2E's around convolutions and linears.

    Both kinds only read, so each sees what it would see alone.

    Args:
        program: the dense program; it is left as it is.
        sites: where to watch, see `passes.sites.find.find_sites`.
        quantizer: one of PT2E's; see `slimdiff_fx.quantize.pt2e.quantize_pt2e`.
        options: of `passes.calibrate.instrument.instrument`.

    Raises:
        ExportError: torchao is not installed, or fails.
        UsageError: see `instrument`.
    """
    instrumented = instrument(program, sites, **options)
    prepared = insert_pt2e_observers(flatten_modules(instrumented.program), quantizer)
    watched = replace(instrumented.program, graph_module=prepared)
    return OneWalk(replace(instrumented, program=watched), prepared)


def flatten_modules(program: Program) -> fx.GraphModule:
    """Give a copy of the graph in which linears and convolutions are operators again, as quantizers look for them.

    The parameters are shared, and each operator computes what its module did.
    """
    graph_module = _copy(program.graph_module)
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        module = graph_module.get_submodule(str(node.target))
        if type(module) not in _OPERATORS:
            continue
        operator, settings = _OPERATORS[type(module)]
        with graph.inserting_before(node):
            tensors = [_parameter(graph, module, str(node.target), name) for name in ("weight", "bias")]
            call = graph.call_function(operator, (node.args[0], *tensors, *settings(module)))
        # Quantizers find an operator by the module that it came from.
        call.meta = {**node.meta, "source_fn_stack": [(node.name, type(module))]}
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _copy(graph_module: fx.GraphModule, keep: Callable[[fx.Node], bool] = lambda node: True) -> fx.GraphModule:
    """Copy a graph, but for nodes that nothing uses; its modules are shared, for observers must stay themselves."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if keep(node):
            copies[node] = graph.node_copy(node, lambda old: copies[old])
    share_signature(graph, graph_module.graph)
    copied = assemble(graph_module, graph)
    copied.meta.update(graph_module.meta)
    return copied


def _parameter(graph: fx.Graph, module: nn.Module, path: str, name: str) -> fx.Node | None:
    value = getattr(module, name)
    if value is None:
        return None
    node = graph.get_attr(f"{path}.{name}")
    node.meta["val"] = value.detach().to("meta")
    return node


def _convolution(module: nn.Module) -> tuple[Any, ...]:
    assert isinstance(module, nn.Conv2d)
    return list(module.stride), module.padding, list(module.dilation), module.groups


_OPERATORS: Mapping[type[nn.Module], tuple[Any, Callable[[nn.Module], tuple[Any, ...]]]] = {
    nn.Linear: (aten.linear.default, lambda module: ()),
    nn.Conv2d: (aten.conv2d.default, _convolution),
}
