"""Sites small enough to be read whole, as raised programs made by hand: right ones, and ones that must be refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from passes.program.program import Program
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes
from tests.sites import Writer, linear_site

ATEN = torch.ops.aten
HEADS, HEAD_DIM = 4, 4
WIDTH = HEADS * HEAD_DIM
NEURONS = 24


def _heads(tensor: Any, batch: Any) -> Any:
    return ATEN.transpose.int(ATEN.view.default(tensor, [batch, -1, HEADS, HEAD_DIM]), 1, 2)


def _merged(tensor: Any, batch: Any) -> Any:
    return ATEN.reshape.default(ATEN.transpose.int(tensor, 1, 2), [batch, -1, WIDTH])


class PlainAttention(nn.Module):
    """q, k, v, out; `head_norm` puts a norm on each head of q, which removing heads leaves alone."""

    def __init__(self, head_norm: bool = False, leak: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(HEAD_DIM) if head_norm else None
        self.leak = leak

    def forward(self, x: Tensor) -> Any:
        batch = ATEN.sym_size.int(x, 0)
        q = self.q(x)
        heads = _heads(q, batch)
        if self.norm is not None:
            heads = self.norm(heads)
        merged = _merged(
            ATEN.scaled_dot_product_attention.default(heads, _heads(self.k(x), batch), _heads(self.v(x), batch)), batch
        )
        result = self.out(merged)
        return ATEN.add.Tensor(result, q) if self.leak else result


class FusedAttention(nn.Module):
    """One linear for q, k and v, split along its last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        batch = ATEN.sym_size.int(x, 0)
        q, k, v = (_heads(part, batch) for part in _parts(ATEN.chunk.default(self.qkv(x), 3, 2), 3))
        return self.out(_merged(ATEN.scaled_dot_product_attention.default(q, k, v), batch))


def _parts(value: Any, count: int) -> list[Any]:
    return [value[index] for index in range(count)]


class Gated(nn.Module):
    """GEGLU: both halves from one linear. The options are the ways it can be something else."""

    def __init__(self, dim: int = -1, norm: bool = False, bare: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * NEURONS), nn.Linear(NEURONS, WIDTH)
        self.norm = nn.LayerNorm(NEURONS) if norm else None
        self.gain = nn.Parameter(torch.rand(NEURONS)) if bare else None
        self.dim, self.twice = dim, twice

    def forward(self, x: Tensor) -> Any:
        value, gate = _parts(ATEN.chunk.default(self.up(x), 2, self.dim), 2)
        hidden = ATEN.mul.Tensor(value, ATEN.gelu.default(gate))
        if self.gain is not None:
            hidden = ATEN.mul.Tensor(hidden, self.gain)
        if self.norm is not None:
            hidden = self.norm(hidden)
        result = self.down(hidden)
        return ATEN.add.Tensor(result, self.down(ATEN.relu.default(hidden))) if self.twice else result


class TwoLinearGate(nn.Module):
    """SwiGLU: value and gate from a linear each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(WIDTH, NEURONS), nn.Linear(WIDTH, NEURONS)
        self.down = nn.Linear(NEURONS, WIDTH)

    def forward(self, x: Tensor) -> Any:
        return self.down(ATEN.mul.Tensor(self.up(x), ATEN.silu.default(self.gate(x))))


def attention_site(*writers: Writer) -> Site:
    return linear_site("attention", "attention", HEADS, HEAD_DIM, writers, "out")


def feed_forward_site(*writers: Writer) -> Site:
    return linear_site("feed_forward", "feed_forward", NEURONS, 1, writers, "down")


def hand_program(module: nn.Module, tokens: int = 6) -> Program:
    """Trace a module of this file; batch and tokens are symbolic."""
    module = module.eval().requires_grad_(False)
    graph_module = fx.symbolic_trace(module)
    example = torch.randn(2, tokens, WIDTH)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    class Propagate(FakeTensorProp):
        def run_node(self, n: fx.Node) -> Any:
            n.meta["val"] = result = super().run_node(n)
            return result

    Propagate(graph_module, mode).propagate_dont_convert_inputs(mode.from_tensor(example))
    return Program(graph_module, (example,))


def hand_nodes(program: Program, site: Site) -> SiteNodes:
    """Locate a site by its paths alone, with no check at all: the checks are what is under test."""
    calls: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), node)
    reader = calls[site.tap]
    return SiteNodes(
        activation=reader,
        query=None,
        key=None,
        value=None,
        reader=reader,
        writers=tuple(calls[path] for path in site.paths[:-1]),
        constants=(),
    )
