from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from passes.capture.capture import capture
from passes.capture.lower import lower
from passes.capture.resample_sizes import ResampleSizes
from passes.errors import UsageError
from passes.program.program import Program

SIZES = [(8, 12), (7, 9), (5, 5), (9, 6), (1, 4), (1, 1), (3, 2)]
DYNAMIC = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)


class Pyramid(nn.Module):
    """Halve twice and double twice; `follows` says whether uneven sizes are gone back to, as U-Nets of diffusers do."""

    def __init__(self, follows: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.follows = follows
        self.down = nn.ModuleList(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(2))
        self.up = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        uneven = self.follows and any(size % 4 != 0 for size in x.shape[2:])
        for part in self.down:
            kept.append(x)
            x = part(x)
        for part in self.up:
            skip = kept.pop()
            size = skip.shape[2:]
            x = functional.interpolate(x, size=size) if uneven else functional.interpolate(x, scale_factor=2.0)
            x = part(x) + skip
        return x


def _program(follows: bool, height: int = 8, width: int = 12) -> tuple[nn.Module, Program]:
    module = Pyramid(follows)
    return module, capture(module, (torch.randn(2, 3, height, width),), {}, DYNAMIC, timestep=None)


@pytest.mark.parametrize("example", [(8, 12), (9, 6)], ids=["even", "uneven"])
def test_one_graph_draws_even_and_uneven_sizes(example: tuple[int, int]) -> None:
    module, program = _program(True, *example)
    assert program.guards == ()
    lowered = lower(program).module()
    for batch in (1, 2):
        for height, width in SIZES:
            x = torch.randn(batch, 3, height, width)
            with torch.no_grad():
                expected = module(x)
                # the same operators in the same order; kernels may differ by layout
                torch.testing.assert_close(program(x), expected, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(lowered(x), expected, rtol=1e-6, atol=1e-6)


def test_a_model_that_cannot_do_it_has_its_multiple_in_the_error() -> None:
    module, program = _program(False)
    assert set(program.guards) == {f"L['x'].size()[{axis}] % 4 == 0" for axis in (2, 3)}
    lowered = lower(program).module()
    x = torch.randn(1, 3, 7, 12)
    with pytest.raises(RuntimeError):
        module(x)
    with pytest.raises(UsageError, match=r"x\.size\(2\) % 4 == 0 \(a multiple of 4\)"):
        program(x)
    with pytest.raises(AssertionError, match=r"x\.size\(\)\[2\] % 4 == 0"):
        lowered(x)
    even = torch.randn(1, 3, 4, 16)
    torch.testing.assert_close(lowered(even), module(even), rtol=1e-6, atol=1e-6)


def test_only_a_doubling_of_what_was_halved_is_changed() -> None:
    x = torch.randn(1, 3, 8, 12)
    with ResampleSizes() as sizes:
        functional.interpolate(x, scale_factor=2.0)  # nothing was halved
        half = functional.conv2d(x, torch.randn(3, 3, 3, 3), stride=2, padding=1)
        functional.interpolate(half, scale_factor=2.0, mode="bilinear")
        functional.interpolate(half, scale_factor=3.0)
        # plain numbers: nothing to keep open
        assert functional.interpolate(half, scale_factor=2.0).shape == x.shape
    assert (sizes.count, sizes.factor) == (0, 2)
