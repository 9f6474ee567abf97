"""Slimming inside torch.compile: equal to the rewritten model, or an error; never dense, never wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from passes.errors import PlanError
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.rewrite.rewrite import rewrite
from slimdiff_fx.denoisers.families import capture_denoiser
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from slimdiff_fx.slimming.while_compiling import compile_backend
from tests.plans import plan_of, updated_plan
from tests.toy_block import ATTENTION, FEED_FORWARD, ToyBlock, build, capture_block, samples
from tests.toy_pipeline import tiny_unet

# fp64: the same graph, run by another compiler.
CLOSE = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def block() -> ToyBlock:
    return build()


@pytest.fixture(scope="module")
def program(block: ToyBlock) -> Program:
    return capture_block(block, each=True)


@pytest.fixture(scope="module")
def plan(program: Program) -> SlimPlan:
    return plan_of(program, {ATTENTION: (0, 2), FEED_FORWARD: (1, 4, 5)})


def _inputs(batch: int) -> tuple[Any, Any]:
    return samples(batch), torch.arange(batch) * 100


def _run(compiled: Any, batch: int = 3) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = compiled(*_inputs(batch))
    return result


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_it_equals_the_rewritten_program_at_every_size(
    block: ToyBlock, program: Program, plan: SlimPlan, inner: str
) -> None:
    compiled = torch.compile(block, backend=compile_backend(plan, inner), fullgraph=True)
    slim = rewrite(program, plan)
    for batch in (3, 5, 9, 1):  # fixed, then dynamic, then the same graph again, then Dynamo's own case of one
        assert not torch.allclose(_run(slim, batch), _run(block, batch), atol=1e-3)
        torch.testing.assert_close(_run(compiled, batch), _run(slim, batch), **CLOSE)


def test_new_weights_and_narrower_heads_are_carried_out(block: ToyBlock, program: Program) -> None:
    plan = updated_plan(program, seed=3)
    compiled = torch.compile(block, backend=compile_backend(plan, "eager"))
    torch.testing.assert_close(_run(compiled), _run(rewrite(program, plan)), **CLOSE)


@pytest.mark.slow
def test_inductor_compiles_a_diffusers_unet() -> None:
    unet = tiny_unet()
    plan = updated_plan(capture_denoiser(unet, tokens=8), seed=1)
    compiled = torch.compile(unet, backend=compile_backend(plan), fullgraph=True)
    slim = apply_plan(unet, plan)
    inputs = torch.randn(2, 16, 8, 16), torch.tensor([3.0, 700.0]), torch.randn(2, 9, 128)
    with torch.no_grad():
        expected, dense = slim(*inputs).sample, unet(*inputs).sample
        found = compiled(*inputs).sample
    assert (dense - expected).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_part_of_a_larger_model_is_refused_and_the_whole_inside_of_one_is_slimmed(
    block: ToyBlock, program: Program, plan: SlimPlan
) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = block

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return 2 * self.denoiser(sample, timestep)

    compiled = torch.compile(Holder(), backend=compile_backend(plan, "eager"))
    torch.testing.assert_close(_run(compiled), 2 * _run(rewrite(program, plan)), **CLOSE)
    part = torch.compile(block.attention, backend=compile_backend(plan, "eager"))
    with pytest.raises(PlanError, match="graph break"):
        part(samples(3))


def test_sizes_that_are_open_from_the_start(block: ToyBlock, program: Program, plan: SlimPlan) -> None:
    compiled = torch.compile(block, backend=compile_backend(plan, "eager"), dynamic=True)
    for batch in (3, 6):
        torch.testing.assert_close(_run(compiled, batch), _run(rewrite(program, plan), batch), **CLOSE)


def test_a_graph_break_is_refused(block: ToyBlock, plan: SlimPlan) -> None:
    def broken(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        tokens = block.attention(sample)
        torch._dynamo.graph_break()
        return tokens + block.feed_forward(sample)

    with pytest.raises(PlanError, match="a graph break has split the model, or it is another one"):
        _run(torch.compile(broken, backend=compile_backend(plan, "eager")))


@pytest.mark.parametrize("other", [lambda: build(seed=1), lambda: build(neurons=12)], ids=["weights", "shape"])
def test_another_model_is_refused(plan: SlimPlan, other: Any) -> None:
    with pytest.raises(PlanError):
        _run(torch.compile(other(), backend=compile_backend(plan, "eager")))


def test_the_same_backend_on_another_model_is_refused(block: ToyBlock, plan: SlimPlan) -> None:
    backend = compile_backend(plan, "eager")
    _run(torch.compile(block, backend=backend))
    with pytest.raises(PlanError):
        _run(torch.compile(build(seed=1), backend=backend))


def test_suppressed_errors_do_not_make_it_dense(plan: SlimPlan) -> None:
    with torch._dynamo.config.patch(suppress_errors=True), pytest.raises(PlanError):
        _run(torch.compile(build(seed=1), backend=compile_backend(plan, "eager")))


def test_a_failing_inner_backend_does_not_make_it_dense(block: ToyBlock, plan: SlimPlan) -> None:
    def failing(graph_module: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    with torch._dynamo.config.patch(suppress_errors=True), pytest.raises(RuntimeError, match="no compiler here"):
        _run(torch.compile(block, backend=compile_backend(plan, failing)))


def test_weights_that_changed_since_are_refused(plan: SlimPlan) -> None:
    block = build()
    compiled = torch.compile(block, backend=compile_backend(plan, "eager"))
    _run(compiled)
    with torch.no_grad():
        block.attention.to_q.weight.mul_(1.5)
    with pytest.raises(PlanError, match=r"torch\.compiler\.reset"):
        _run(compiled)


def test_a_number_that_would_be_fixed_is_refused(block: ToyBlock, plan: SlimPlan) -> None:
    def scaled(sample: torch.Tensor, timestep: torch.Tensor, factor: int) -> torch.Tensor:
        result: torch.Tensor = block(sample * factor, timestep)
        return result

    compiled = torch.compile(scaled, backend=compile_backend(plan, "eager"), dynamic=True)
    with pytest.raises(PlanError, match="pass it as a tensor"):
        compiled(*_inputs(3), 7)


def test_beyond_dynamos_limit_it_fails_and_does_not_run_dense(block: ToyBlock, plan: SlimPlan) -> None:
    with torch._dynamo.config.patch(recompile_limit=2):
        compiled = torch.compile(block, backend=compile_backend(plan, "eager"), dynamic=False)
        _run(compiled, 3)
        _run(compiled, 4)
        with pytest.raises(Exception, match="recompile_limit"):
            _run(compiled, 5)


def test_parameters_that_are_attributes_already(block: ToyBlock, program: Program, plan: SlimPlan) -> None:
    exported = torch.export.export(block, _inputs(3)).module(check_guards=False)
    compiled = compile_backend(plan, "eager")(exported, list(_inputs(3)))
    with torch.no_grad():
        (found,) = compiled(*_inputs(3))
    torch.testing.assert_close(found, _run(rewrite(program, plan)), **CLOSE)
