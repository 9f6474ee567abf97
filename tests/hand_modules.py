"""Small modules as people write them, captured whole: sites that must be found, and ones that must be left alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from passes.capture.capture import capture
from passes.program.program import Program

HEADS, HEAD_DIM, NEURONS = 4, 4, 12
WIDTH = HEADS * HEAD_DIM
BATCH, TOKENS = Dim("batch", min=1), Dim("tokens", min=1)


class Attention(nn.Module):
    """Self-attention; the options are ways to write it that are, or aren't, understood."""

    def __init__(self, *, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH if way == "norm_before" else HEAD_DIM)
        if way == "grouped":
            self.k, self.v = nn.Linear(WIDTH, 2 * HEAD_DIM), nn.Linear(WIDTH, 2 * HEAD_DIM)
        if way in ("fused", "split"):
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        if way == "tied":
            self.k.weight = self.q.weight
        self.gain = nn.Parameter(torch.rand(1, HEADS, 1, 1))

    def _heads(self, x: Tensor, heads: int = HEADS) -> Tensor:
        return x.view(x.shape[0], -1, heads, HEAD_DIM).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        way = self.way
        if way == "fused":
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        elif way == "split":
            q, k, v = self.qkv(x).split(WIDTH, dim=-1)
        elif way == "same_linear":
            q, k, v = self.q(x), self.k(x), self.k(x)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        leak = q
        if way == "norm_before":
            q = self.norm(q)
        q, k, v = (self._heads(part, part.shape[-1] // HEAD_DIM) for part in (q, k, v))
        if way == "norm_after":
            q = self.norm(q)
        mask = None
        if way == "mask_repeated":
            mask = torch.zeros_like(x[:, :, 0]).unsqueeze(1).repeat_interleave(HEADS, dim=0)
            mask = mask.view(x.shape[0], HEADS, -1, mask.shape[-1])
        elif way == "mask_broadcast":
            mask = torch.zeros_like(x[:, :, 0])[:, None, None, :]
        elif way == "mask_by_head":
            mask = torch.zeros_like(x[:, :, 0])[:, None, None, :] + self.gain
        if way == "written_out":
            weights = torch.softmax(q @ k.transpose(-1, -2) * HEAD_DIM**-0.5, dim=-1)
            o = weights @ v
        elif way == "grouped":
            o = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if way == "head_gain":
            o = o * self.gain
        o = o.transpose(1, 2).reshape(x.shape[0], -1, WIDTH) if way != "flatten" else o.transpose(1, 2).flatten(2)
        result: Tensor = self.out(o)
        return result + leak if way == "leak" else result


class FeedForward(nn.Module):
    """A feed-forward; the options as in `Attention`."""

    def __init__(self, *, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.up = nn.Linear(WIDTH, NEURONS * (2 if way in ("geglu", "split", "half_used") else 1))
        self.gate, self.down = nn.Linear(WIDTH, NEURONS), nn.Linear(NEURONS, WIDTH)
        self.norm, self.dropout = nn.LayerNorm(NEURONS), nn.Dropout(0.5)
        self.gain = nn.Parameter(torch.rand(NEURONS))

    def forward(self, x: Tensor) -> Tensor:
        way = self.way
        if way == "vector":
            x = x.mean(1)
        hidden = self.up(x)
        if way == "geglu":
            value, gate = hidden.chunk(2, dim=-1)
            hidden = value * F.gelu(gate)
        elif way == "split":
            value, gate = hidden.split([NEURONS, NEURONS], dim=-1)
            hidden = value * F.silu(gate)
        elif way == "half_used":
            value, gate = hidden.chunk(2, dim=-1)
            return self.down(value * F.gelu(gate)) + gate.mean(-1, keepdim=True)  # type: ignore[no-any-return]
        elif way == "swiglu":
            hidden = hidden * F.silu(self.gate(x))
        elif way == "linear":
            pass
        elif way == "quick_gelu":
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        else:
            hidden = F.gelu(hidden)
        if way == "norm":
            hidden = self.norm(hidden)
        if way == "gain":
            hidden = hidden * self.gain
        hidden = self.dropout(hidden)
        result: Tensor = self.down(hidden)
        if way == "leak":
            return result + hidden.mean(-1, keepdim=True)
        if way == "twice":
            return result + self.down(F.relu(hidden))
        return result


def captured(module: nn.Module, **options: Any) -> Program:
    """Capture a module of this file with dynamic batch and tokens."""
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    return capture(module, (x,), {}, ({0: BATCH, 1: TOKENS},), timestep=None, **options)
