"""Statistics of a program that runs in half precision: as exact as those of any other, for what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from passes.calibrate.instrument import instrument
from passes.calibrate.moments import COUNT, FIRST, KEY, QUERY, SECOND
from passes.calibrate.token_sampling import sampled_tokens
from passes.sites.find import locate
from tests.toy_block import HEADS, TOKENS, samples, site_of, toy

BATCH, TIMESTEP = 600, 137.0


class Reader(fx.Interpreter):
    """Keeps the value of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            self.values[node.name] = result
        return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_those_of_what_was_computed_taken_in_float64(dtype: torch.dtype) -> None:
    """Products in half precision would be off by 4e-3 in bfloat16 and 5e-4 in float16, sums in it by far more."""
    program, sites = toy(dtype=dtype)
    watched = instrument(program, sites, moments=True)
    inputs, timestep = samples(BATCH, dtype=dtype), torch.tensor(TIMESTEP)
    reader = Reader(program.graph_module)
    with torch.no_grad():
        watched(inputs, timestep)
        reader.run(inputs, timestep)
    statistics = watched.statistics()
    chosen = sampled_tokens(TOKENS, TIMESTEP)
    for kind in ("feed_forward", "attention"):
        site = site_of(sites, kind)
        nodes = locate(program, site)
        activation = reader.values[nodes.activation.name]
        assert activation.dtype == dtype
        if kind == "feed_forward":
            exact = activation.double()
            torch.testing.assert_close(
                statistics.sites[site.name]["abs"].sum(0), exact.abs().sum((0, 1)), rtol=1e-6, atol=0
            )
            torch.testing.assert_close(
                statistics.sites[site.name]["square"].sum(0), exact.square().sum((0, 1)), rtol=1e-6, atol=0
            )
            rows = activation[:, chosen]
        else:
            rows = activation[:, :, chosen].transpose(1, 2)
        rows = rows.reshape(-1, site.width).double()
        sums = statistics.moments[site.name]
        assert {values.dtype for values in sums.values()} == {torch.float64}
        assert float(sums[COUNT]) == len(rows) > 2048  # more than one block
        assert_close(sums[FIRST], rows.sum(0))
        assert_close(sums[SECOND], rows.T @ rows)
        if kind == "attention":
            assert nodes.query is not None
            assert nodes.key is not None
            for name, node in ((QUERY, nodes.query), (KEY, nodes.key)):
                taken = reader.values[node.name][:, :, chosen].double().transpose(0, 1).reshape(HEADS, len(rows), -1)
                assert_close(sums[name], taken.transpose(1, 2) @ taken)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Compare with float32 products over a block; entries off the diagonal cancel, so against the largest."""
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
