from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from passes.calibrate.instrument import instrument
from passes.errors import UsageError
from passes.program.program import Program
from tests.hand_modules import Attention, FeedForward, captured
from tests.plans import captured as captured_family
from tests.toy_block import samples, toy


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


def test_sizes_are_checked_at_each_call() -> None:
    program, sites = toy()
    step = torch.tensor(5)
    for calls in (program, instrument(program, sites)):
        with pytest.raises(
            UsageError, match=r"'sample' is \[2, 15, 12\]; the program was captured for \[any, 16, 12\]"
        ):
            calls(samples(2)[:, :15], step)
        with pytest.raises(UsageError, match=r"'sample' is \[2, 12, 16\]"):
            calls(samples(2).transpose(1, 2), step)
        with pytest.raises(UsageError, match=r"'sample' is \[16, 12\]"):
            calls(samples(2)[0], step)
        with pytest.raises(UsageError, match=r"takes 2 inputs \(sample, timestep\), not 1"):
            calls(samples(2))
        with pytest.raises(UsageError, match="not 3"):
            calls(samples(2), step, step)


@pytest.mark.parametrize("position", [0, 1])
def test_each_guard_is_checked_at_each_call(position: int) -> None:
    guards = ["L['sample'].size()[0] <= 5", "L['sample'].size()[1] != 4 * L['sample'].size()[0]"]
    guarded = replace(toy()[0], guards=tuple(guards if position == 0 else guards[::-1]))
    step = torch.tensor(5)
    with torch.no_grad():
        assert guarded(samples(3), step).shape == (3, 16, 12)
        assert guarded(samples(2), timestep=step).shape == (2, 16, 12)
    with pytest.raises(UsageError, match=r"needs sample\.size\(0\) <= 5"):
        guarded(samples(40)[::6], step)
    with pytest.raises(
        UsageError, match=r"\{'sample': \[4, 16, 12\], 'timestep': \[\]\}: it needs sample\.size\(1\) != 4"
    ):
        guarded(samples(4), timestep=step)
    with pytest.raises(UsageError, match=r"needs sample\.size\(1\) !="):  # on a copy and on what is slimmed, too
        guarded.copy()(samples(4), step)
