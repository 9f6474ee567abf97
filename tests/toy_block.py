"""The smallest denoiser with both kinds of site: one self-attention, one GEGLU feed-forward, a timestep embedding."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from passes.capture.capture import capture
from passes.program.program import Program
from passes.sites.find import find_sites
from passes.sites.site import Site

WIDTH, HEADS, NEURONS, TOKENS = 12, 3, 10, 16
ATTENTION, FEED_FORWARD = "attention", "feed_forward"


class Attention(nn.Module):
    """Plain self-attention through SDPA."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend, [B, T, width]."""
        batch, length, width = tokens.shape
        parts = (
            linear(tokens).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(*parts)
        return self.to_out(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """GEGLU."""

    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * neurons), nn.Linear(neurons, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each token, [B, T, width]."""
        hidden, gate = self.up(tokens).chunk(2, dim=-1)
        return self.down(hidden * F.gelu(gate))


class ToyBlock(nn.Module):
    """One transformer block on tokens [B, T, WIDTH], shifted by the timestep [] or [B]."""

    def __init__(self, neurons: int = NEURONS) -> None:
        super().__init__()
        self.embed = nn.Linear(1, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.feed_forward = Attention(WIDTH, HEADS), FeedForward(WIDTH, neurons)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predict, [B, T, WIDTH]."""
        shift = self.embed(timestep.reshape(-1, 1).to(sample.dtype) / 1000).unsqueeze(1)
        tokens = sample + shift
        tokens = tokens + self.attention(self.first(tokens))
        return tokens + self.feed_forward(self.second(tokens))


def build(seed: int = 0, dtype: torch.dtype = torch.float64, neurons: int = NEURONS) -> ToyBlock:
    """Make a block with random weights."""
    torch.manual_seed(seed)
    return ToyBlock(neurons).to(dtype).eval()


def capture_block(module: nn.Module, each: bool = False) -> Program:
    """Capture a block for any batch; `each` for one timestep per sample instead of one for all."""
    dtype = next(module.parameters()).dtype
    timestep = torch.tensor([500, 20, 999]) if each else torch.tensor(500)
    shapes = {"sample": {0: torch.export.Dim.AUTO}, "timestep": {0: torch.export.Dim.AUTO} if each else None}
    return capture(module, (torch.randn(3, TOKENS, WIDTH, dtype=dtype), timestep), dynamic_shapes=shapes)


@cache
def toy(each: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Program, tuple[Site, ...]]:
    """Give the captured block and its two sites. Shared between tests: don't change it."""
    program = capture_block(build(dtype=dtype), each)
    return program, find_sites(program)


def samples(count: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw inputs, [count, TOKENS, WIDTH]."""
    return torch.randn(count, TOKENS, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def site_of(sites: tuple[Site, ...], kind: str) -> Site:
    """Give the block's site of a kind."""
    return next(site for site in sites if site.kind == kind)
