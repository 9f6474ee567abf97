"""One site as a program of its own, at any of its sizes: for questions about the site alone, such as its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.program.shapes import set_shapes
from passes.prove.region import cut_region
from passes.rewrite.constants import mend_constants
from passes.rewrite.slicing import slice_modules, slim_site
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes


def site_program(
    program: Program, site: Site, nodes: SiteNodes, units: int, width: int | None = None, seed: int = 0
) -> Program:
    """Cut a site out, from what writes its units to what reads them, with the first of its units left.

    Which units are kept makes no difference to what this is for: weights are the dense model's rows, inputs are random.

    Args:
        program: a specialized program (see `passes.program.shapes`); it is only read.
        site: a site of it.
        nodes: the site's nodes there.
        units: heads or neurons that stay.
        width: channels that stay of each head; None for all.
        seed: of the inputs.

    Returns:
        A program of fixed sizes. A norm within each head is left out.

    Raises:
        CouplingError: the site can't be cut out; see `passes.prove.region`.
    """
    region = cut_region(program, site, nodes, limit=None)
    mask = SitePlan(site.kind, site.units, tuple(range(units)), width).mask()
    slice_modules(region.module, site, mask, width)
    constants = [replace(each, node=region.copies[each.node]) for each in nodes.constants]
    mend_constants(site, slim_site(site, mask, width), constants)
    region.module.recompile()
    region.module.eval().requires_grad_(False)
    device = next(region.module.parameters()).device
    cut = Program(region.module, _random_inputs(region.inputs, seed, device), timestep=None)
    set_shapes(cut, cut.args)
    return cut


def _random_inputs(examples: Sequence[Tensor], seed: int, device: torch.device) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for example in examples:
        if example.dtype.is_floating_point:
            made.append(torch.randn(example.shape, generator=generator).to(device, example.dtype))
        else:
            made.append(torch.ones(example.shape, dtype=example.dtype, device=device))
    return tuple(made)


def signature(program: Program) -> str:
    """Describe a program by its operators and sizes alone: equal for equal sites of different blocks.

    Args:
        program: of fixed sizes.
    """
    numbers = {node: at for at, node in enumerate(program.graph.nodes)}
    lines = []
    for node in program.graph.nodes:
        what = node.op if node.op in ("placeholder", "output", "get_attr") else str(node.target)
        if node.op == "call_module":
            what = repr(program.module(str(node.target)))
        value = node.meta.get("val")
        if node.op in ("placeholder", "get_attr") and isinstance(value, Tensor):
            what = f"{what} {value.dtype} {tuple(value.shape)}"
        arguments = fx.map_arg((node.args, dict(node.kwargs)), lambda parent: f"%{numbers[parent]}")
        lines.append(f"%{numbers[node]} {what} {arguments}")
    return "\n".join(lines)
