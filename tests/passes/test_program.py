from __future__ import annotations

import torch

from passes.program import Program
from tests.hand_modules import Attention, FeedForward, captured
from tests.plans import captured as captured_family


def _tensors(program: Program) -> dict[str, int]:
    module = program.graph_module
    return {name: value.data_ptr() for name, value in (*module.named_parameters(), *module.named_buffers())}


def test_a_copy_shares_tensors_and_nothing_else() -> None:
    program = captured(Attention())
    copy = program.copy()
    assert _tensors(copy) == _tensors(program)
    assert torch.equal(copy(*copy.args), program(*program.args))
    for node, other in zip(program.graph.nodes, copy.graph.nodes, strict=True):
        assert node is not other
        assert node.meta.get("val") is other.meta.get("val")
        assert node.meta is not other.meta
    assert copy.module("q") is not program.module("q")
    assert copy.module("q").weight is program.module("q").weight


def test_changing_a_copy_leaves_the_original() -> None:
    program = captured(FeedForward())
    before, expected = str(program.graph), program(*program.args)
    copy = program.copy()
    copy.graph_module.set_submodule("up", torch.nn.Identity())
    next(iter(copy.graph.nodes)).meta.clear()
    for node in copy.graph.nodes:
        if node.op == "call_module":
            node.target = "up"
    copy.graph_module.recompile()
    assert str(program.graph) == before
    assert torch.equal(program(*program.args), expected)
    assert "val" in next(iter(program.graph.nodes)).meta


def test_buffers_outside_the_state_dict_stay_outside() -> None:
    program = captured_family("dit")
    assert "pos_embed.pos_embed" in dict(program.graph_module.named_buffers())
    for candidate in (program, program.copy(), program.copy().copy()):
        assert "pos_embed.pos_embed" not in candidate.graph_module.state_dict()
