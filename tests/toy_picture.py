"""The smallest denoiser of pictures: convolutions, linears and a timestep, quick to export."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from passes.capture.capture import capture
from passes.program.program import Program

CHANNELS, WIDTH = 3, 16


class ToyPicture(nn.Module):
    """Predict [B, 3, H, W] from a noisy picture and a timestep [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.time, self.middle = nn.Linear(1, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.conv_out = nn.Conv2d(WIDTH, CHANNELS, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predict; height and width are free."""
        hidden = self.conv_in(sample) + self.time(timestep[:, None] / 1000)[:, :, None, None]
        hidden = hidden + self.middle(F.silu(hidden))
        tokens = hidden.permute(0, 2, 3, 1)
        tokens = tokens + self.down(F.gelu(self.up(tokens)))
        return self.conv_out(F.silu(tokens.permute(0, 3, 1, 2)))


def capture_picture(seed: int = 0) -> Program:
    """Capture one with random weights."""
    torch.manual_seed(seed)
    auto = torch.export.Dim.AUTO
    args = (torch.randn(2, CHANNELS, 8, 8), torch.tensor([10.0, 900.0]))
    return capture(ToyPicture().eval(), args, dynamic_shapes=({0: auto, 2: auto, 3: auto}, {0: auto}))
