"""Arguments of operators: by position, by name, and left out."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from passes.program.operators import argument

SDPA = torch.ops.aten.scaled_dot_product_attention.default


@pytest.mark.parametrize("owned", [True, False])
def test_an_argument_is_found_wherever_it_stands(owned: bool) -> None:
    graph = fx.Graph()
    query, key, value, mask = (graph.placeholder(name) for name in ("query", "key", "value", "mask"))
    by_position = graph.call_function(SDPA, (query, key, value, mask, 0.0, True))
    by_name = graph.call_function(SDPA, (query, key), {"value": value, "scale": 0.5, "attn_mask": mask})
    if owned:
        fx.GraphModule(torch.nn.Module(), graph)
    for node in (by_position, by_name):
        assert [argument(node, name) for name in ("query", "key", "value", "attn_mask")] == [query, key, value, mask]
    assert (argument(by_position, "is_causal"), argument(by_name, "is_causal")) == (True, False)
    assert (argument(by_position, "scale"), argument(by_name, "scale")) == (None, 0.5)
    with pytest.raises(KeyError):
        argument(by_name, "bias")
    with pytest.raises(KeyError, match="no arguments that are known by name"):
        argument(query, "query")
