"""What stands in a graph for a site's sizes, and whether its attention scales by the width that it finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from passes.sites.site_nodes import Constant, SiteNodes, implied_scale
from tests.sites import linear_site

ATEN = torch.ops.aten
SITE = linear_site("block", "attention", 3, 4, ("q", "k", "v"), "out")


def _node(target: Any, *arguments: Any, **options: Any) -> fx.Node:
    graph = fx.Graph()
    q, k, v = (graph.placeholder(name) for name in "qkv")
    return graph.call_function(target, (q, k, v, *arguments), options)


@pytest.mark.parametrize(
    ("units", "width", "value"), [(True, False, 3), (False, True, 4), (True, True, 12), (False, False, 1)]
)
def test_a_constant_has_the_factors_that_it_counts(units: bool, width: bool, value: int) -> None:
    constant = Constant(_node(ATEN.view.default), (1, 2), counts_units=units, counts_width=width)
    assert constant.value(SITE) == value


def test_a_constant_counts_units_unless_it_says_otherwise() -> None:
    assert Constant(_node(ATEN.view.default), (1, 2)).value(SITE) == 3


def _nodes(activation: fx.Node) -> SiteNodes:
    return SiteNodes(activation, None, None, None, activation, (), ())


@pytest.mark.parametrize(
    ("arguments", "options", "implied"),
    [
        ((), {}, True),
        ((None, 0.0, False), {"scale": None}, True),
        ((None, 0.0, False), {"scale": 0.5}, False),
        ((), {"is_causal": True, "scale": 0.5}, False),  # the operator takes its scale by name alone
        ((), {"attn_mask": None, "scale": None}, True),
        ((None, 0.0, False), {}, True),
    ],
)
def test_attention_scales_by_its_width_unless_it_is_told_a_scale(
    arguments: tuple[Any, ...], options: dict[str, Any], implied: bool
) -> None:
    assert implied_scale(_nodes(_node(ATEN.scaled_dot_product_attention.default, *arguments, **options))) is implied


def test_what_is_no_attention_scales_nothing() -> None:
    assert implied_scale(_nodes(_node(ATEN.gelu.default))) is False
