"""Where a site lives in one particular graph: nodes, unlike `Site`, don't outlive it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Constant:
    """A number baked into a node that grows with the units: a head count, a merged width, a split size.

    Attributes:
        node: the node that carries it.
        argument: the way to it: (1, 2) is `node.args[1][2]`, ("sizes",) is `node.kwargs["sizes"]`.
        per_unit: the number is units * per_unit now and must become kept * per_unit.
    """

    node: fx.Node
    argument: tuple[int | str, ...]
    per_unit: int


@dataclass(frozen=True)
class SiteNodes:
    """The nodes of one site.

    Attributes:
        activation: feed-forward: what enters the consumer, before any dropout, [B, T, units]; attention: the output of
            scaled dot-product attention, [B, heads, T, head_dim].
        query: [B, heads, T, head_dim], what enters attention; None in a feed-forward.
        key: likewise, [B, heads, S, head_dim].
        value: likewise, [B, heads, S, head_dim].
        consumer: call of the output or down projection.
        producers: calls of the linears that lose rows, in the order of `Site.producers`.
        constants: every baked number that depends on how many units there are.
    """

    activation: fx.Node
    query: fx.Node | None
    key: fx.Node | None
    value: fx.Node | None
    consumer: fx.Node
    producers: tuple[fx.Node, ...]
    constants: tuple[Constant, ...]
