from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passes.capture.capture import capture
from passes.program.program import Program


def _captured(module: nn.Module, *args: Any, **options: Any) -> Program:
    return capture(module, args, timestep=None, **options)


def _calls(program: Program) -> dict[str, type]:
    return {
        str(node.target): type(program.module(str(node.target)))
        for node in program.graph.nodes
        if node.op == "call_module"
    }


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8, padding_idx=1)
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.same = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        self.groups, self.layer, self.rms = (
            nn.GroupNorm(2, 4, eps=1e-3),
            nn.LayerNorm(4, eps=1e-4),
            nn.RMSNorm(4, eps=1e-4),
        )
        self.linear = nn.Linear(4, 4)

    def forward(self, image: Tensor, index: Tensor) -> Tensor:
        x = self.groups(self.same(self.conv(image))).flatten(2).transpose(1, 2)
        return self.linear(self.rms(self.layer(x))).sum(1) @ self.table(index).view(-1, 4).T  # type: ignore[no-any-return]


def test_every_kind_is_raised_with_its_settings() -> None:
    torch.manual_seed(0)
    module = Everything()
    program = _captured(module, torch.randn(2, 2, 8, 8), torch.tensor([0, 3]))
    assert _calls(program) == {
        name: type(module.get_submodule(name)) for name in ("conv", "same", "groups", "layer", "rms", "linear", "table")
    }
    for name in _calls(program):
        assert program.module(name).extra_repr() == module.get_submodule(name).extra_repr()
        for own, found in zip(module.get_submodule(name).parameters(), program.module(name).parameters(), strict=True):
            assert own is found
    left = [str(node.target) for node in program.graph.nodes if node.op == "get_attr"]
    assert left == []


class Odd(nn.Module):
    """Parameters under names that no module has, one weight in two roles, a constant, an unsaved buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(4, 4))
        self.linear, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("offset", torch.randn(4), persistent=False)
        self.register_buffer("scale", torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.projection) + self.offset * self.scale
        return self.linear(x) + F.linear(x, self.linear.weight) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_what_is_no_module_stays_functional() -> None:
    module = Odd()
    x = torch.randn(2, 4)
    program = _captured(module, x)
    assert torch.equal(program(x), module(x))
    assert _calls(program) == {"linear": nn.Linear}
    functional = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    # the bare parameter, and the linear's weight without its bias
    assert len(functional) == 2
    # what nothing uses is gone, the rest has the model's own keys
    own = {name for name in module.state_dict() if not name.startswith("unused")}
    assert set(program.graph_module.state_dict()) == own
    assert program.graph_module.projection is module.projection


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        other: Tensor = F.layer_norm(x, (4,), self.norm.weight, self.norm.bias, eps=0.5)
        return self.norm(x) + self.norm(other)  # type: ignore[no-any-return]


def test_the_same_parameters_under_other_settings_are_another_call() -> None:
    module = Twice()
    x = torch.randn(2, 4)
    program = _captured(module, x)
    assert torch.equal(program(x), module(x))
    calls = [node for node in program.graph.nodes if node.op == "call_module"]
    functional = [node for node in program.graph.nodes if node.target is torch.ops.aten.layer_norm.default]
    assert (len(calls), len(functional)) in {(2, 1), (1, 2)}


def test_a_wrapper_leaves_no_trace_in_the_names() -> None:
    wrapper = nn.Module()
    wrapper.denoiser = nn.Linear(4, 4)
    wrapper.forward = lambda x: wrapper.denoiser(x)
    program = capture(wrapper, (torch.randn(2, 4),), root="denoiser", timestep=None)
    assert set(program.graph_module.state_dict()) <= {"weight", "bias"}


def test_checks_of_the_export_are_gone() -> None:
    program = _captured(Everything(), torch.randn(2, 2, 8, 8), torch.tensor([0, 3]))
    assert not any("assert" in node.name or "guard" in node.name for node in program.graph.nodes)
