"""Where a site lives in one particular graph: nodes, unlike `Site`, don't outlive it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx

from passes.program.operators import argument
from passes.sites.site import Site


@dataclass(frozen=True)
class Constant:
    """A number baked into a node that changes with the site: a head count, a head's width, their product, a split size.

    Attributes:
        node: the node that carries it.
        argument: the way to it: (1, 2) is `node.args[1][2]`, ("sizes",) is `node.kwargs["sizes"]`.
        counts_units: the number has the site's units as a factor.
        counts_width: it has the width of a unit as a factor.
    """

    node: fx.Node
    argument: tuple[int | str, ...]
    counts_units: bool = True
    counts_width: bool = False

    def value(self, site: Site) -> int:
        """Give the number for a site of this many units of this width."""
        return (site.units if self.counts_units else 1) * (site.unit_width if self.counts_width else 1)


@dataclass(frozen=True)
class SiteNodes:
    """The nodes of one site.

    Attributes:
        activation: feed-forward: what enters the reader, before any dropout, [B, T, units]; attention: the output of
            scaled dot-product attention, [B, heads, T, head_dim].
        query: [B, heads, T, head_dim], what enters attention; None where there is none.
        key: likewise, [B, heads, S, head_dim].
        value: likewise, [B, heads, S, head_dim].
        reader: call of the output or down projection.
        writers: calls of the modules that make the units, in the order of `Site.writers`, each once.
        constants: every baked number that depends on how many units there are.
    """

    activation: fx.Node
    query: fx.Node | None
    key: fx.Node | None
    value: fx.Node | None
    reader: fx.Node
    writers: tuple[fx.Node, ...]
    constants: tuple[Constant, ...]

    def mapped(self, copies: Mapping[fx.Node, fx.Node]) -> SiteNodes:
        """Give the same of a copy of the graph; `copies` has the copy of each of its nodes."""
        return SiteNodes(
            copies[self.activation],
            None if self.query is None else copies[self.query],
            None if self.key is None else copies[self.key],
            None if self.value is None else copies[self.value],
            copies[self.reader],
            tuple(copies[node] for node in self.writers),
            tuple(replace(each, node=copies[each.node]) for each in self.constants),
        )


def implied_scale(nodes: SiteNodes) -> bool:
    """Say whether a site's attention scales its scores by 1/√(head width), having been given no scale of its own."""
    node = nodes.activation
    if node.target is not torch.ops.aten.scaled_dot_product_attention.default:
        return False
    return argument(node, "scale") is None
