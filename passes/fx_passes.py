"""The transforms as `torch.fx` passes, so that other people's pass managers can run them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from passes.calibrate.instrument import instrument
from passes.capture.raise_modules import raise_modules
from passes.plan.slim_plan import SlimPlan
from passes.plan.updates import changed_sites
from passes.program.program import Program
from passes.prove.masking import mask
from passes.prove.validate import validate
from passes.prove.verify import verify
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites


class _ProgramPass(PassBase):
    """A pass that knows the program a graph module came from: its example inputs, dynamic shapes and timestep."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def with_graph(self, graph_module: fx.GraphModule) -> Program:
        """Give the program with this graph in the place of its own."""
        return replace(self.program, graph_module=graph_module)


class RaisePass(PassBase):
    """Run `passes.capture.raise_modules.raise_modules` on the module of somebody's own exported program.

    Give `root`, the dotted prefix that the model's names have there, or "".
    """

    def __init__(self, root: str = "") -> None:
        """Take the prefix that every name loses."""
        self.root = root

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Give the raised graph module; it shares its parameters with the exported one."""
        tensors = {
            **dict(graph_module.named_parameters(remove_duplicate=False)),
            **dict(graph_module.named_buffers(remove_duplicate=False)),
        }
        return PassResult(raise_modules(graph_module, self.root, tensors, graph_module.state_dict().keys()), True)


class RewritePass(_ProgramPass):
    """Run `passes.rewrite.rewrite.rewrite`, and `passes.prove.validate.validate` after it unless told not to."""

    def __init__(self, program: Program, plan: SlimPlan, *, check: bool = True) -> None:
        """Take the program that the graph module belongs to and the plan to carry out."""
        super().__init__(program)
        self.plan, self.check = plan, check

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Give the slim graph module; a plan that keeps everything gives the same graph module, unmodified."""
        program = self.with_graph(graph_module)
        if not changed_sites(program, self.plan):
            return PassResult(graph_module, False)
        slim = rewrite(program, self.plan)
        if self.check:
            validate(program, self.plan, slim)
        return PassResult(slim.graph_module, True)


class MaskPass(_ProgramPass):
    """Run `passes.prove.masking.mask`."""

    def __init__(self, program: Program, plan: SlimPlan) -> None:
        """Take the program that the graph module belongs to and the plan to carry out."""
        super().__init__(program)
        self.plan = plan

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Give the masked graph module; a plan that keeps everything gives the same graph module, unmodified."""
        program = self.with_graph(graph_module)
        if not changed_sites(program, self.plan):
            return PassResult(graph_module, False)
        return PassResult(mask(program, self.plan).graph_module, True)


class InstrumentPass(_ProgramPass):
    """Run `instrument` at every site. `instrumented` then holds what gives the statistics."""

    def __init__(self, program: Program, **options: Any) -> None:
        """Take the program that the graph module belongs to and what `instrument` takes besides."""
        super().__init__(program)
        self.options = options
        self.instrumented: Any = None

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Give the observed graph module; a graph with no site gives the same graph module, unmodified."""
        program = self.with_graph(graph_module)
        sites = find_sites(program)
        if not sites:
            return PassResult(graph_module, False)
        self.instrumented = instrument(program, sites, **self.options)
        return PassResult(self.instrumented.program.graph_module, True)


class VerifyPass(_ProgramPass):
    """Run `passes.prove.verify.verify`: an analysis, so it never modifies anything."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Give the same graph module back, or raise VerificationError."""
        verify(self.with_graph(graph_module))
        return PassResult(graph_module, False)
