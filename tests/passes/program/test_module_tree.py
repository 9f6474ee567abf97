"""Putting graph modules together and copying them: what is shared, what is not, and what is saved."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from passes.program.module_tree import assemble, copy_graph_module


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.linear, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)
        self.register_buffer("saved", torch.ones(3))
        self.register_buffer("unsaved", torch.full((3,), 2.0), persistent=False)
        self.inner.register_buffer("table", torch.full((3,), 3.0), persistent=False)
        self.other = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.inner.linear(x)) + self.saved
        return x * self.unsaved + self.inner.table


def _graph_module() -> tuple[Owner, fx.GraphModule]:
    owner = Owner()
    return owner, assemble(owner, fx.Tracer().trace(owner))


def test_only_what_the_graph_needs_is_taken_and_only_what_was_saved_is() -> None:
    owner, made = _graph_module()
    assert set(made.state_dict()) == {"inner.linear.weight", "inner.linear.bias", "saved"}
    assert {name for name, _ in made.named_buffers()} == {"saved", "unsaved", "inner.table"}
    assert made.inner.linear.weight is owner.inner.linear.weight
    assert not any(module.training for module in made.modules())
    x = torch.randn(2, 3)
    assert torch.equal(made(x), owner.eval()(x))
    assert type(made).__name__ == "Denoiser"


def test_a_copy_shares_tensors_and_nothing_else() -> None:
    _, made = _graph_module()
    copied = copy_graph_module(made)
    assert copied.graph is not made.graph
    assert [(node.op, node.name, str(node.target)) for node in copied.graph.nodes] == [
        (node.op, node.name, str(node.target)) for node in made.graph.nodes
    ]
    assert all(node.graph is copied.graph for node in copied.graph.nodes)
    assert copied.inner.linear is not made.inner.linear
    tensors = dict([*made.named_parameters(), *made.named_buffers()])
    assert {**dict(copied.named_parameters()), **dict(copied.named_buffers())}.keys() == tensors.keys()
    for name, value in [*copied.named_parameters(), *copied.named_buffers()]:
        assert value is tensors[name]
    assert set(copied.state_dict()) == set(made.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(copied(x), made(x))


def test_a_changed_copy_leaves_the_original() -> None:
    _, made = _graph_module()
    x = torch.randn(2, 3)
    before = made(x)
    copied = copy_graph_module(made)
    copied.inner.linear.weight = nn.Parameter(torch.zeros(3, 3))
    copied.inner.linear.out_features = 7
    node = next(node for node in copied.graph.nodes if node.op == "call_module")
    node.replace_all_uses_with(node.args[0])
    copied.recompile()
    assert torch.equal(made(x), before)
    assert made.inner.linear.out_features == 3
    assert not torch.equal(copied(x), before)
