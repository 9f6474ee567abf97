"""Put graph modules together, and copy them, with every tensor shared."""

from __future__ import annotations

import copy

from torch import fx, nn

from passes.program.torch_private import own_buffers, share_signature, unsaved_buffers


def assemble(owner: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Give a graph module for a graph that refers to parts of `owner`.

    `fx.GraphModule` takes the modules and tensors that the graph names, but would make every buffer part of the state
    dict; here those that weren't stay out.
    """
    graph_module = fx.GraphModule(owner, graph, class_name="Denoiser")
    for path, module in graph_module.named_modules():
        known = owner.get_submodule(path)
        unsaved_buffers(module).update(unsaved_buffers(known) & set(own_buffers(module)))
    graph_module.eval()
    return graph_module


def copy_graph_module(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Copy a graph and its modules; parameters, buffers and the fake tensors of `meta` are shared."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        copies[node] = graph.node_copy(node, lambda old: copies[old])
    share_signature(graph, graph_module.graph)
    copied = assemble(graph_module, graph)
    memo = {id(tensor): tensor for tensor in (*graph_module.parameters(), *graph_module.buffers())}
    for path in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        copied.set_submodule(path, copy.deepcopy(graph_module.get_submodule(path), memo))
    return copied
