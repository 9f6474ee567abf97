"""Graphs between linears and attention; nodes say their shapes themselves, so that wrong ones can be written too."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from passes.program.program import Program
from passes.sites.attention_walk import trace_back, trace_forward
from passes.sites.site_nodes import Constant

ATEN = torch.ops.aten
BATCH, TOKENS, HEADS, WIDTH = 2, 6, 3, 4
CHANNELS = HEADS * WIDTH
MERGED, SPLIT, SWAPPED = [BATCH, TOKENS, CHANNELS], [BATCH, TOKENS, HEADS, WIDTH], [BATCH, HEADS, TOKENS, WIDTH]


class Graph:
    """One input, a few linears, and what a test adds."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = torch.empty(MERGED, device="meta")
        self.owner = nn.Module()
        self.owner.linear, self.owner.out = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.owner.fused, self.owner.norm = nn.Linear(CHANNELS, 3 * CHANNELS), nn.LayerNorm(CHANNELS)
        self.constants: list[Constant] = []

    def call(self, target: Any, shape: list[int], *arguments: Any, **options: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments, options)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def module(self, path: str, value: fx.Node, shape: list[int] = MERGED) -> fx.Node:
        node = self.graph.call_module(path, (value,))
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def attend(self, query: fx.Node, **options: Any) -> fx.Node:
        return self.call(ATEN.scaled_dot_product_attention.default, SWAPPED, query, query, query, **options)

    def program(self, result: Any) -> Program:
        self.graph.output(result)
        return Program(fx.GraphModule(self.owner, self.graph), (torch.zeros(MERGED),), timestep=None)

    def back(self, node: fx.Node, *more: fx.Node) -> tuple[fx.Node, int]:
        attention = self.attend(node)
        program = self.program((attention, *more))
        return trace_back(program, node, attention, HEADS, WIDTH, "query", self.constants)

    def forward(self, make: Any) -> fx.Node:
        attention = self.attend(self.x)
        return trace_forward(self.program(make(attention)), attention, HEADS, WIDTH, self.constants)

    def noted(self) -> list[tuple[str, tuple[Any, ...], bool, bool]]:
        return [(each.node.name, each.argument, each.counts_units, each.counts_width) for each in self.constants]


def heads(graph: Graph, value: fx.Node, sizes: list[int] | None = None) -> fx.Node:
    view = graph.call(ATEN.view.default, SPLIT, value, sizes or SPLIT)
    return graph.call(ATEN.transpose.int, SWAPPED, view, 1, 2)
