"""Graphs as export leaves them, written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.capture.raise_modules import raise_modules


class Exported:
    """A graph over tensors with dotted names, as export leaves one."""

    def __init__(self, **tensors: Tensor) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.tensors = {name.replace("__", "."): value for name, value in tensors.items()}
        self.nodes = {name: self.graph.get_attr(name) for name in self.tensors}

    def call(self, target: Any, *arguments: Any, **options: Any) -> fx.Node:
        return self.graph.call_function(target, arguments, options)

    def module(self) -> fx.GraphModule:
        owner = nn.Module()
        for name, value in self.tensors.items():
            *parents, leaf = name.split(".")
            holder = owner
            for parent in parents:
                if not hasattr(holder, parent):
                    holder.add_module(parent, nn.Module())
                holder = holder.get_submodule(parent)
            if isinstance(value, nn.Parameter):
                holder.register_parameter(leaf, value)
            else:
                holder.register_buffer(leaf, value)
        return fx.GraphModule(owner, self.graph)

    def raised(self, result: Any, root: str = "", persistent: tuple[str, ...] = (), **more: Any) -> fx.GraphModule:
        self.graph.output(result)
        return raise_modules(self.module(), root, {**self.tensors, **more}, persistent)


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    generator = torch.Generator().manual_seed(len(shape))
    return nn.Parameter(torch.randn(shape, generator=generator).to(dtype))


def calls(module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_module"]


def functions(module: fx.GraphModule) -> list[Any]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def settings(module: nn.Module, names: str) -> list[Any]:
    return [getattr(module, name) for name in names.split()]
