"""Weights of one's own, weights that are shared, and weights that were validated."""

import hashlib

import pytest
import torch
from torch import nn

from passes.program.ownership import is_as_validated, own_tensors, owned, sealed, share_tensors, weights_digest
from passes.rewrite.rewrite import rewrite
from tests.plans import captured, random_plan


class Tied(nn.Module):
    """Two linears with one weight, a buffer, and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("scratch", torch.zeros(0), persistent=False)


def _pointers(module: nn.Module) -> set[int]:
    return {value.data_ptr() for value in (*module.parameters(), *module.buffers()) if value.numel()}


def test_own_tensors_are_copies_of_the_same_kind():
    module, plain = Tied(), Tied()
    plain.load_state_dict(module.state_dict())
    before, pointers = weights_digest(module), _pointers(module)
    own_tensors(module)
    assert weights_digest(module) == before == weights_digest(plain)
    assert not _pointers(module) & pointers
    assert module.other.weight is module.one.weight  # ties stay
    assert isinstance(module.scale, nn.Parameter)
    assert [value.requires_grad for value in module.parameters()] == [
        value.requires_grad for value in plain.parameters()
    ]
    assert not isinstance(module.table, nn.Parameter)
    assert "scratch" not in module.state_dict()


def test_shared_tensors_are_the_very_objects_of_the_source():
    module, source = Tied(), Tied()
    source.one = nn.Linear(5, 3)  # of another shape: not to be taken
    kept = module.one.weight
    share_tensors(module, source)
    assert module.one.weight is kept
    assert module.one.bias is source.one.bias
    assert module.other.weight is source.other.weight
    assert module.table is source.table
    assert module.scale is source.scale


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.one.weight.data.view(-1)[4:5].add_(1e-7),  # as adapters are fused: no version counts it
        lambda module: module.table.mul_(2),
        lambda module: module.to(torch.bfloat16),
        lambda module: module.register_buffer("more", torch.zeros(1)),
        lambda module: setattr(module.one, "bias", None),
    ],
)
def test_digest_sees_every_change(change):
    module = Tied()
    before = weights_digest(module)
    change(module)
    assert weights_digest(module) != before


def test_digest_is_of_names_types_shapes_and_bytes():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0]]))
    by_hand = hashlib.sha256(b"weight torch.float32 (1, 2)\n" + bytes.fromhex("0000803f000000c0")).hexdigest()
    assert weights_digest(module) == by_hand


def test_a_program_with_its_own_weights_does_not_move_with_the_dense_one():
    dense = captured("unet_sd15")
    slim = rewrite(dense, random_plan(dense, 4))
    own = sealed(owned(slim))
    assert not _pointers(own.graph_module) & _pointers(dense.graph_module)
    assert is_as_validated(slim) is None
    assert is_as_validated(own) is True
    assert is_as_validated(owned(own)) is True
    assert is_as_validated(own.copy()) is None  # a copy is made to be changed
    with torch.no_grad():
        assert torch.equal(own(*dense.args, **dense.kwargs), slim(*dense.args, **dense.kwargs))
    next(own.graph_module.parameters()).data.mul_(1.5)
    assert is_as_validated(own) is False
