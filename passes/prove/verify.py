"""Verify a program between two passes: well-formed, shapes true, nothing dead, sites still there."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from passes.errors import VerificationError
from passes.program.program import Program
from passes.program.shapes import propagate_shapes
from passes.program.sizes import sizes_of
from passes.sites.find import find_sites
from passes.sites.site import Site


def verify(program: Program, sites: Iterable[Site] | None = None) -> None:
    """Check a program.

    Args:
        program: what to check.
        sites: sites that must be found in it, or None.

    Raises:
        VerificationError: the graph is malformed, names something that isn't there, keeps parameters that nothing
            uses, has shapes that don't fit or that `meta["val"]` tells wrongly, or lost a site.
    """
    _check_graph(program)
    _check_parameters(program)
    _check_shapes(program)
    if sites is not None:
        _check_sites(program, sites)


def _check_graph(program: Program) -> None:
    for node in program.graph.nodes:
        if node.op not in ("get_attr", "call_module"):
            continue
        try:
            owner, _, leaf = str(node.target).rpartition(".")
            getattr(program.graph_module.get_submodule(owner), leaf)
        except AttributeError as error:
            raise VerificationError(f"node {node.name!r} uses {node.target!r}, which the program lacks") from error
    try:
        program.graph.lint()
    except Exception as error:  # lint raises several kinds
        raise VerificationError(f"the graph is malformed: {error}") from error


def _check_parameters(program: Program) -> None:
    used = {str(node.target) for node in program.graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in program.graph_module.named_parameters(remove_duplicate=False):
        parts = name.split(".")
        if not any(".".join(parts[:length]) in used for length in range(1, len(parts) + 1)):
            raise VerificationError(f"nothing uses parameter {name!r}; remove it with the nodes that did")


def _check_shapes(program: Program) -> None:
    try:
        found = propagate_shapes(program)
    except Exception as error:  # whatever an operator says about inputs that don't fit
        raise VerificationError(f"shapes don't fit: {str(error).strip().splitlines()[0]}") from error
    for node, value in found.items():
        if node.op == "output" or not isinstance(value, Tensor):
            continue
        noted = node.meta.get("val")
        if not isinstance(noted, Tensor):
            raise VerificationError(f'node {node.name!r} has no meta["val"]')
        if tuple(value.shape) != sizes_of(node) or value.dtype != noted.dtype:
            raise VerificationError(
                f"node {node.name!r} gives {list(value.shape)} {value.dtype}; "
                f"its meta says {list(noted.shape)} {noted.dtype}"
            )


def _check_sites(program: Program, sites: Iterable[Site]) -> None:
    present = {site.name: site for site in find_sites(program)}
    for site in sites:
        found = present.get(site.name)
        if found is None:
            raise VerificationError(f"site {site.name!r} is gone")
        if found != site:
            raise VerificationError(
                f"site {site.name!r} has {found.units} units of width {found.unit_width}, or other linears; "
                f"expected are {site.units} of width {site.unit_width}"
            )
