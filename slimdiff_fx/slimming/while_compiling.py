"""Slim while compiling: a backend for `torch.compile` that carries a plan out on the graph it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx
from torch.fx.graph import CodeGen

from passes.arguments import check_kind
from passes.capture.capture import capture
from passes.capture.dynamo_graph import DynamoGraph, unlift
from passes.errors import PlanError
from passes.plan.slim_plan import SlimPlan
from passes.program.guards import check_inputs
from passes.program.program import Program
from passes.program.torch_private import changes, fail_beyond_recompile_limit, lookup_backend, recompile_limit, tracing
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite

Compiled = Callable[..., Any]
Backend = Callable[[fx.GraphModule, Sequence[Any]], Compiled]


def compile_backend(plan: SlimPlan, inner: str | Backend = "inductor", *, check: bool = True) -> Backend:
    """Make a backend for `torch.compile(unet, backend=...)` that slims the graph by a plan and hands it on.

    The graph must be the whole model that the plan was made for, by the plan's fingerprint. Anything else is refused:
    part of it after a graph break, another model, other weights, weights that changed after they were compiled. An
    error comes out of the call of the compiled model, so that `torch._dynamo.config.suppress_errors` can't turn it into
    a silent run of the dense one.

    Examples:
        >>> compiled = torch.compile(unet, backend=slimdiff_fx.compile_backend(plan, inner="eager"), fullgraph=True)
        >>> with torch.no_grad():
        ...     compiled(*inputs, return_dict=False)[0].shape
        torch.Size([2, 4, 8, 8])

    Args:
        plan: made for the dense model that is compiled.
        inner: the backend that compiles the slim graph: "inductor", "aot_eager", "eager", or a function.
        check: compare the slim graph with the masked dense one; leave it on.

    Returns:
        What `torch.compile` takes as `backend`. What it compiles raises PlanError where the graph is not the plan's
        model, and UsageError at sizes that the graph does not hold for.
    """
    check_kind("plan", plan, SlimPlan, "the plan that slimdiff_fx.analyze gives, or result.plan")
    if not callable(inner):
        check_kind("inner", inner, str, 'the name of a backend, such as "inductor", or a function')
    return _SlimBackend(plan, inner, check)


class _SlimBackend:
    """Compiles every graph that Dynamo makes of one model."""

    def __init__(self, plan: SlimPlan, inner: str | Backend, check: bool) -> None:
        self._plan, self._check = plan.copy(), check  # what is compiled keeps the new weights
        self._inner: Callable[..., Compiled] = lookup_backend(inner)
        self._graphs = 0
        self._lock = threading.Lock()

    def __call__(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        with self._lock:
            self._graphs += 1
            if self._graphs >= recompile_limit():
                # Beyond its limit Dynamo runs the dense model and only logs it.
                fail_beyond_recompile_limit()
        try:
            return self._compiled(graph_module, example_inputs)
        except Exception as error:  # whatever it is, the dense model must not run in its place
            return _refusal(error)

    def _compiled(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        given = unlift(graph_module, example_inputs, self._plan.sites)
        with tracing(None):  # a trace of its own, inside Dynamo's
            program = capture(given.module, given.args, None, given.dynamic_shapes, timestep=None)
            slim = rewrite(program, self._plan)
            if self._check:
                validate(program, self._plan, slim)
        run = self._inner(_flat(slim), list(given.args))
        return _guarded(run, slim, given, [example_inputs[place] for place in given.state])


def _guarded(run: Compiled, slim: Program, given: DynamoGraph, state: Sequence[Tensor]) -> Compiled:
    """Take what Dynamo passes, see that it is what was compiled, and run the slim graph."""
    versions = [_version(value) for value in state]

    def compiled(*inputs: Any) -> Any:
        for place, value, version in zip(given.state, state, versions, strict=True):
            if inputs[place] is not value or _version(value) != version:
                raise PlanError(
                    "the model's weights are not those that were slimmed when it was compiled; call "
                    "torch.compiler.reset() and compile it again, with a plan of these weights"
                )
        for place, number in given.constants.items():
            if float(inputs[place]) != number:
                raise PlanError(
                    f"a module's number was {number:g} when it was compiled and is {float(inputs[place]):g}"
                )
        args = tuple(inputs[place] for place in given.inputs)
        check_inputs(slim.graph_module, slim.guards, args, {})
        return run(*args)

    return compiled


def _flat(program: Program) -> fx.GraphModule:
    """Copy a program's graph to one that takes tensors and gives a tuple of them, as compilers ask of graphs."""
    graph_module = program.copy().graph_module
    graph_module.graph.set_codegen(CodeGen())
    output = graph_module.graph.output_node()
    output.args = (tuple(output.all_input_nodes),)
    graph_module.recompile()
    return graph_module


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else changes(value)


def _refusal(error: Exception) -> Compiled:
    def refuse(*inputs: Any) -> Any:
        raise error

    return refuse
