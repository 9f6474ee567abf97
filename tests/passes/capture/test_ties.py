from __future__ import annotations

import torch
from torch.export import Dim

from passes.capture.ties import dynamic_axes, tied_places

BATCH, TOKENS = Dim("batch", min=1), Dim("tokens", min=1)
ARGS = (torch.zeros(2, 3), {"a": torch.zeros(2), "b": torch.zeros(2, 4)}, torch.zeros(4))
SHAPES = ({0: BATCH, 1: Dim.AUTO}, {"a": {0: BATCH}, "b": {0: BATCH, 1: TOKENS}}, {0: TOKENS})


def test_axes_follow_the_inputs_nesting() -> None:
    assert dynamic_axes(SHAPES, (ARGS, {})) == [
        {0: BATCH, 1: Dim.AUTO},
        {0: BATCH},
        {0: BATCH, 1: TOKENS},
        {0: TOKENS},
    ]
    assert dynamic_axes(None, (ARGS, {})) == [{}, {}, {}, {}]
    assert dynamic_axes({"x": (BATCH, None)}, ((torch.zeros(2, 3),), {})) == [{0: BATCH}]


def test_named_dimensions_tie_places() -> None:
    assert tied_places(SHAPES, (ARGS, {})) == [[(0, 0), (1, 0), (2, 0)], [(2, 1), (3, 0)]]
    assert tied_places(({0: BATCH},), ((torch.zeros(2),), {})) == []
