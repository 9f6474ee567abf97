"""Compiling a slim model block by block: blocks that are alike share a graph, others need one each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from slimdiff_fx.denoisers.families import capture_denoiser, describe
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from tests.plans import plan_of
from tests.toy_denoisers import unet_sd15

# As if there were many: dynamo's own limit is 8.
LIMIT = 2


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=LIMIT):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def slims() -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    """Give a slim model whose like blocks are alike, one whose blocks all differ, and inputs."""
    dense = unet_sd15(0)
    program = capture_denoiser(dense, height=8, width=8, tokens=5)
    inner = [name for name in plan_of(program).sites if name.endswith(".ff.net")]
    assert len(inner) == 4  # three of one width, and the middle
    uniform = apply_plan(dense, plan_of(program, {name: tuple(range(at, 20 + at)) for at, name in enumerate(inner)}))
    other = apply_plan(dense, plan_of(program, {name: tuple(range(20 + at)) for at, name in enumerate(inner)}))
    return uniform, other, describe(dense, height=8, width=8, tokens=5).args


def _compiled(model: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, int]:
    model.compile_repeated_blocks(fullgraph=True, backend="eager")  # type: ignore[operator]
    with torch.no_grad():
        result = model(*args, return_dict=False)[0]
    return result, torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_like_blocks_share_a_graph(slims: tuple[nn.Module, nn.Module, tuple[Tensor, ...]]) -> None:
    uniform, _, args = slims
    with torch.no_grad():
        expected = uniform(*args, return_dict=False)[0]
    found, graphs = _compiled(uniform, args)
    assert graphs == 2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_blocks_of_many_widths_need_the_limit_raised(slims: tuple[nn.Module, nn.Module, tuple[Tensor, ...]]) -> None:
    _, other, args = slims
    with torch.no_grad():
        expected = other(*args, return_dict=False)[0]
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        _compiled(other, args)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=64):  # as docs/compilers.md says
        found, graphs = _compiled(other, args)
    assert graphs == 4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
