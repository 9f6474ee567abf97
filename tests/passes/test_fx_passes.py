"""The transforms under torch's own pass manager."""

from __future__ import annotations

import torch
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from passes.fx_passes import InstrumentPass, MaskPass, RewritePass, VerifyPass
from passes.rewrite.rewrite import rewrite
from tests.plans import captured, plan_of, random_plan


def test_rewrite_says_what_it_modified() -> None:
    program = captured("unet_sd15")
    plan = random_plan(program, seed=4)
    result = RewritePass(program, plan)(program.graph_module)
    assert isinstance(result, PassResult)
    assert result.modified
    with torch.no_grad():
        expected = rewrite(program, plan)(*program.args, **program.kwargs)
        assert torch.equal(result.graph_module(*program.args, **program.kwargs), expected)


def test_nothing_to_do_is_not_modified() -> None:
    program = captured("unet_sd15")
    everything = plan_of(program)
    for adapter in (RewritePass(program, everything), MaskPass(program, everything), VerifyPass(program)):
        result = adapter(program.graph_module)
        assert result is not None
        assert result.graph_module is program.graph_module
        assert not result.modified


def test_mask_and_rewrite_agree() -> None:
    program = captured("unet_sd15")
    plan = random_plan(program, seed=4)
    masked, slim = (adapter(program.graph_module) for adapter in (MaskPass(program, plan), RewritePass(program, plan)))
    assert masked is not None
    assert masked.modified
    assert slim is not None
    with torch.no_grad():
        left, right = (module(*program.args, **program.kwargs) for module in (masked.graph_module, slim.graph_module))
    assert (left - right).norm() <= 1e-12 * left.norm()


def test_pass_manager_runs_them_in_a_row() -> None:
    program = captured("unet_sd15")
    plan = random_plan(program, seed=4)
    watch = InstrumentPass(program)
    result = PassManager(passes=[VerifyPass(program), RewritePass(program, plan), watch])(program.graph_module)
    assert result.modified
    assert watch.instrumented is not None
    with torch.no_grad():
        observed = result.graph_module(*program.args, **program.kwargs)
        assert torch.equal(observed, rewrite(program, plan)(*program.args, **program.kwargs))
