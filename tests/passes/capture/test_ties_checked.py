"""Equal sizes that are told to a trace: every place is compared with the first, and only while the check is on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from passes.capture.ties import dynamic_axes, tie_inputs, tied_places

BATCH, TOKENS = Dim("batch", min=1), Dim("tokens", min=1)


class Takes(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, *, z: torch.Tensor) -> torch.Tensor:
        return x


X, Y, Z = torch.zeros(2, 3), torch.zeros(4, 2), torch.zeros(2)
SHAPES = ({0: BATCH}, {1: BATCH}, {0: BATCH})


def test_every_place_is_checked_until_the_check_is_taken_off() -> None:
    module = Takes()
    remove = tie_inputs(module, SHAPES, ((X, Y), {"z": Z}))
    module(X, Y, z=Z)
    # Other sizes are fine as long as they are equal where they must be.
    module(torch.zeros(5, 1), torch.zeros(9, 5), z=torch.zeros(5))
    for wrong in ((X, torch.zeros(2, 4), Z), (X, Y, torch.zeros(3)), (torch.zeros(3, 2), Y, Z)):
        with pytest.raises(RuntimeError):
            module(wrong[0], wrong[1], z=wrong[2])
    remove()
    module(X, torch.zeros(2, 4), z=torch.zeros(3))


def test_nothing_is_checked_where_nothing_is_tied() -> None:
    module = Takes()
    tie_inputs(module, ({0: BATCH}, {1: TOKENS}, None), ((X, Y), {"z": Z}))
    module(torch.zeros(5, 1), torch.zeros(9, 7), z=torch.zeros(1))


def test_shapes_by_name_and_inputs_that_are_none() -> None:
    shapes = {"x": {0: BATCH, 1: None}, "y": None, "z": {0: BATCH}}
    assert dynamic_axes(shapes, ((X, None), {"z": Z})) == [{0: BATCH}, {0: BATCH}]
    assert dynamic_axes(shapes, ((X, Y), {"z": Z})) == [{0: BATCH}, {}, {0: BATCH}]
    assert tied_places(shapes, ((X, Y), {"z": Z})) == [[(0, 0), (2, 0)]]


def test_lists_within_inputs() -> None:
    args = ([X, Y], {"z": Z, "w": Z})
    shapes = ([{0: BATCH}, None], {"z": {0: BATCH}})
    assert dynamic_axes(shapes, (args, {})) == [{0: BATCH}, {}, {0: BATCH}, {}]
    assert tied_places(shapes, (args, {})) == [[(0, 0), (2, 0)]]
    assert dynamic_axes((None, None), (args, {})) == [{}] * 4
