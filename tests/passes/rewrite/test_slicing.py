"""Modules without some of their channels: one of each type, against the same with those channels at zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from passes.errors import CouplingError
from passes.rewrite.slicing import can_be_sliced, slice_modules, sliced
from passes.sites.site import Site, Slice
from tests.passes.hand_graphs import NEURONS, WIDTH, FusedAttention, Gated, attention_site, feed_forward_site

TIGHT = {"rtol": 0.0, "atol": 1e-12}


def _gone(*channels: int) -> Tensor:
    return torch.tensor(channels)


def test_a_linear_loses_rows_and_columns() -> None:
    linear = nn.Linear(6, 4, dtype=torch.float64)
    rows = sliced(linear, {"out": _gone(1, 2)})
    assert isinstance(rows, nn.Linear)
    assert (rows.in_features, rows.out_features) == (6, 2)
    assert torch.equal(rows.weight, linear.weight[[0, 3]])
    assert torch.equal(rows.bias, linear.bias[[0, 3]])
    columns = sliced(linear, {"in": _gone(0, 3, 4)})
    assert isinstance(columns, nn.Linear)
    assert (columns.in_features, columns.out_features) == (3, 4)
    assert torch.equal(columns.weight, linear.weight[:, [1, 2, 5]])
    assert columns.bias is linear.bias
    assert columns.weight.dtype == torch.float64
    assert columns.weight.is_contiguous()
    assert columns.weight.untyped_storage().nbytes() == 4 * 3 * 8  # not a view that keeps the dense weight alive


def test_gradient_and_mode_flags_stay() -> None:
    frozen = sliced(nn.Linear(3, 3, bias=False).requires_grad_(False).eval(), {"out": _gone(0, 2)})
    assert isinstance(frozen, nn.Linear)
    assert not frozen.weight.requires_grad
    assert not frozen.training
    assert frozen.bias is None
    assert sliced(nn.Linear(3, 3), {"out": _gone(0)}).weight.requires_grad


def test_what_is_no_plain_module_is_refused() -> None:
    class Wrapped(nn.Linear):
        pass

    for module in (Wrapped(3, 3), nn.LayerNorm(3)):
        assert not can_be_sliced(module)
        with pytest.raises(CouplingError, match=f"{type(module).__name__} is no plain"):
            sliced(module, {"out": _gone(1, 2)})


@pytest.mark.parametrize(
    ("convolution", "sample"),
    [
        (nn.Conv2d(6, 4, (3, 1), stride=2, padding=(1, 0), dilation=1, padding_mode="circular"), (2, 6, 8, 5)),
        (nn.Conv1d(6, 4, 3, padding="same", bias=False), (2, 6, 7)),
        (nn.Conv3d(6, 4, (1, 3, 3), padding=(0, 1, 1)), (1, 6, 2, 5, 4)),
    ],
)
def test_a_convolution_without_channels_is_the_one_with_them_at_zero(
    convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d, sample: tuple[int, ...]
) -> None:
    convolution = convolution.double()
    inputs = torch.randn(sample, dtype=torch.float64)
    slim = sliced(convolution, {"in": _gone(0, 4), "out": _gone(3)})
    assert type(slim) is type(convolution)
    masked = inputs.clone()
    masked[:, [0, 4]] = 0
    torch.testing.assert_close(slim(inputs[:, [1, 2, 3, 5]]), convolution(masked)[:, :3], **TIGHT)
    assert (slim.in_channels, slim.out_channels) == (4, 3)


def test_a_convolution_in_groups_is_refused() -> None:
    with pytest.raises(CouplingError, match="2 groups"):
        sliced(nn.Conv2d(4, 4, 1, groups=2), {"out": _gone(0)})


def test_a_group_norm_loses_whole_groups() -> None:
    norm = nn.GroupNorm(3, 6, eps=1e-3, dtype=torch.float64)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    inputs = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    slim = sliced(norm, {"channels": _gone(2, 3)})
    torch.testing.assert_close(slim(inputs[:, [0, 1, 4, 5]]), norm(inputs)[:, [0, 1, 4, 5]], **TIGHT)
    plain = sliced(nn.GroupNorm(3, 6, affine=False), {"channels": _gone(0, 1, 2, 3)})
    assert isinstance(plain, nn.GroupNorm)
    assert (plain.num_groups, plain.num_channels, plain.weight) == (1, 2, None)
    with pytest.raises(CouplingError, match="a part of its channels"):
        sliced(norm, {"channels": _gone(2)})


def test_an_embedding_loses_columns() -> None:
    table = nn.Embedding(5, 4)
    slim = sliced(table, {"channels": _gone(1, 2)})
    assert isinstance(slim, nn.Embedding)
    assert (slim.num_embeddings, slim.embedding_dim) == (5, 2)
    assert torch.equal(slim(torch.arange(5)), table.weight[:, [0, 3]])


def test_a_gated_feed_forward_loses_both_of_a_neurons_rows() -> None:
    model = Gated()
    up, down = model.up.weight.detach().clone(), model.down.weight.detach().clone()
    kept = torch.zeros(NEURONS, dtype=torch.bool)
    kept[[2, 5]] = True
    slice_modules(model, feed_forward_site(("up", (0, NEURONS))), kept)
    assert torch.equal(model.up.weight, up[[2, 5, NEURONS + 2, NEURONS + 5]])
    assert torch.equal(model.down.weight, down[:, [2, 5]])


def test_a_fused_projection_is_sliced_in_any_order() -> None:
    kept = torch.tensor([False, True, False, True])
    model, other = FusedAttention(), FusedAttention()
    other.load_state_dict(model.state_dict())
    dense = model.qkv.weight.detach().clone()
    slice_modules(model, attention_site(("qkv", (0, WIDTH, 2 * WIDTH))), kept)
    slice_modules(other, attention_site(*(("qkv", (WIDTH * part,)) for part in (2, 0, 1))), kept)
    rows = [part * WIDTH + row for part in range(3) for row in (4, 5, 6, 7, 12, 13, 14, 15)]
    assert torch.equal(model.qkv.weight, dense[rows])
    assert torch.equal(other.qkv.weight, dense[rows])


def test_what_is_not_the_sites_stays() -> None:
    model = nn.ModuleDict({"up": nn.Linear(3, 7), "down": nn.Linear(6, 3)})
    up, down = model["up"].weight.detach().clone(), model["down"].weight.detach().clone()
    site = Site("site", "feed_forward", 2, (Slice("up", "out", 1, 2), Slice("down", "in", 3, 1)), "down")
    slice_modules(model, site, torch.tensor([False, True]))
    assert torch.equal(model["up"].weight, up[[0, 3, 4, 5, 6]])
    assert torch.equal(model["down"].weight, down[:, [0, 1, 2, 4, 5]])
