"""The adapters on the smallest denoiser: each runs its pass on the graph that it is given, with what it was told."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import passes.fx_passes
from passes.errors import ValidationError, VerificationError
from passes.fx_passes import InstrumentPass, MaskPass, RaisePass, RewritePass, VerifyPass
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from tests.plans import plan_of
from tests.toy_block import build, samples, toy

PROGRAM, SITES = toy()
PLAN = plan_of(PROGRAM, {SITES[0].name: (0,), SITES[1].name: (1, 3, 4)})
INPUTS = samples(2, seed=5), torch.tensor(30)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.denoiser = build()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.denoiser(sample, timestep)


def test_raising_somebody_s_own_export() -> None:
    wrapper = Wrapper()
    exported = torch.export.export(wrapper, INPUTS).module()
    assert isinstance(exported, fx.GraphModule)
    with_root, without = RaisePass("denoiser")(exported), RaisePass()(exported)
    assert with_root is not None
    assert without is not None
    assert with_root.modified
    assert without.modified
    calls = {str(node.target) for node in with_root.graph_module.graph.nodes if node.op == "call_module"}
    assert {"attention.to_q", "feed_forward.down", "embed", "first"} <= calls
    assert set(with_root.graph_module.state_dict()) == set(wrapper.denoiser.state_dict())
    assert set(without.graph_module.state_dict()) == set(wrapper.state_dict())
    with torch.no_grad():
        for result in (with_root, without):
            assert torch.equal(result.graph_module(*INPUTS), wrapper(*INPUTS))
    # Its tensors, not copies.
    own = {id(value) for value in exported.parameters()}
    assert all(id(value) in own for value in without.graph_module.parameters())


def other() -> Program:
    """Give the program's copy with a node more: what comes out is twice as much."""
    program = PROGRAM.copy()
    output = next(node for node in program.graph.nodes if node.op == "output")
    (result,) = output.all_input_nodes
    with program.graph.inserting_before(output):
        twice = program.graph.call_function(torch.ops.aten.mul.Tensor, (result, 2.0))
    twice.meta["val"] = result.meta["val"]
    output.replace_input_with(result, twice)
    program.graph_module.recompile()
    return program


@torch.no_grad()
def test_each_works_on_the_graph_that_it_is_given() -> None:
    graph_module = other().graph_module
    slim = rewrite(PROGRAM, PLAN)(*INPUTS)
    for adapter in (RewritePass(PROGRAM, PLAN), MaskPass(PROGRAM, PLAN)):
        result = adapter(graph_module)
        assert result is not None
        torch.testing.assert_close(result.graph_module(*INPUTS), 2 * slim, rtol=1e-12, atol=1e-12)
    watch = InstrumentPass(PROGRAM)
    result = watch(graph_module)
    assert result is not None
    assert torch.equal(result.graph_module(*INPUTS), graph_module(*INPUTS))
    assert watch.instrumented.statistics().samples == 2


def test_a_rewrite_that_went_wrong_is_noticed_unless_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(program: Program, plan: SlimPlan) -> Program:
        slim = rewrite(program, plan)
        slim.module(SITES[1].tap).bias = nn.Parameter(slim.module(SITES[1].tap).bias + 1)
        return slim

    monkeypatch.setattr(passes.fx_passes, "rewrite", wrong)
    with pytest.raises(Exception, match="differs from the masked dense one") as caught:
        RewritePass(PROGRAM, PLAN)(PROGRAM.graph_module)
    assert isinstance(caught.value, ValidationError)
    result = RewritePass(PROGRAM, PLAN, check=False)(PROGRAM.graph_module)
    assert result is not None
    assert result.modified


def test_verifying_looks_at_the_graph_that_it_is_given() -> None:
    broken = PROGRAM.copy()
    broken.graph_module.add_module("left_over", nn.Linear(2, 2))
    VerifyPass(PROGRAM)(PROGRAM.graph_module)
    with pytest.raises(VerificationError, match="nothing uses parameter"):
        VerifyPass(PROGRAM)(broken.graph_module)


def test_observers_are_made_as_told_and_none_where_there_is_nothing_to_watch() -> None:
    watch = InstrumentPass(PROGRAM, moments=True, buckets=3)
    watch(PROGRAM.graph_module)
    with torch.no_grad():
        watch.instrumented(*INPUTS)
    statistics = watch.instrumented.statistics()
    assert statistics.buckets == 3
    assert statistics.moments.keys() == {site.name for site in SITES}
    bare = fx.symbolic_trace(nn.Linear(3, 3))
    watch = InstrumentPass(Program(bare, (torch.zeros(1, 3),), timestep=None))
    result = watch(bare)
    assert result is not None
    assert (result.graph_module, result.modified, watch.instrumented) == (bare, False, None)
