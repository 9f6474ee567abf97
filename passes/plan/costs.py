"""What units and programs cost, and what a budget counts: parameters and multiply-accumulates (MACs).

MACs are counted at the program's example sizes, batch included: linears, convolutions and matrix products, those inside
attention too. Elementwise work and norms are left out, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.plan.slim_plan import SitePlan
from passes.program.program import Program
from passes.program.sizes import sizes_of
from passes.sites.find import locate, locate_all
from passes.sites.site import Site, axis_of
from passes.sites.site_nodes import SiteNodes

aten = torch.ops.aten
_PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default)


def unit_params(program: Program, site: Site) -> int:
    """Count the parameters that go with one unit: its channels in each of the site's modules, biases too."""
    total = 0
    for each in site.slices:
        for parameter in program.module(each.path).parameters(recurse=False):
            axis = axis_of(each.side, parameter.dim())
            if axis is not None:
                total += parameter.numel() // parameter.shape[axis] * each.per_unit
    return total


def unit_macs(program: Program, site: Site, nodes: SiteNodes | None = None) -> int:
    """Count the MACs that go with one unit, at the example sizes; `nodes` are the site's, if they are known already."""
    nodes = nodes if nodes is not None else locate(program, site)
    calls = {str(call.target): call for call in (*nodes.writers, nodes.reader)}
    total = 0
    for each in site.slices:
        weight = getattr(program.module(each.path), "weight", None)
        axis = None if weight is None else axis_of(each.side, weight.dim())
        if each.path in calls and weight is not None and axis is not None:
            total += _macs(program, calls[each.path]) * each.per_unit // weight.shape[axis]
    return total + _attention_macs(nodes) // max(site.units, 1)


def site_params(program: Program, site: Site) -> int:
    """Count the parameters of a site's modules; the reader's bias, which no removal touches, is left out."""
    return site.units * unit_params(program, site)


def site_macs(program: Program, site: Site, nodes: SiteNodes | None = None) -> int:
    """Count the MACs of a site at the example sizes."""
    return site.units * unit_macs(program, site, nodes)


def entry_cost(site_cost: int, site: Site, entry: SitePlan) -> int:
    """Give what stays of a site's parameters or MACs under a plan: both are proportional to its channels.

    Args:
        site_cost: of the whole site, from `site_params` or `site_macs`.
        site: the dense site.
        entry: what stays of it.
    """
    return site_cost * len(entry.kept) * (entry.width or site.unit_width) // site.width


def program_params(program: Program) -> int:
    """Count the parameters of a program; a tied one counts once."""
    return sum(parameter.numel() for parameter in program.graph_module.parameters())


def program_macs(program: Program) -> int:
    """Count the MACs of a program at its example sizes."""
    return sum(_macs(program, node) for node in program.graph.nodes)


def _attention_macs(nodes: SiteNodes) -> int:
    if nodes.query is None or nodes.key is None or nodes.value is None:
        return 0
    return _sdpa_macs(sizes_of(nodes.query), sizes_of(nodes.key), sizes_of(nodes.value))


def _sdpa_macs(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> int:
    # queries with keys, then weights with values
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _macs(program: Program, node: fx.Node) -> int:
    if node.op == "call_module":
        module = program.module(str(node.target))
        if isinstance(module, nn.Linear):
            return math.prod(sizes_of(node)) * module.in_features
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return math.prod(sizes_of(node)) * module.weight[0].numel()
        return 0
    if node.op != "call_function":
        return 0
    inputs = [sizes_of(value) for value in node.args if isinstance(value, fx.Node)]
    if node.target is aten.scaled_dot_product_attention.default:
        return _sdpa_macs(*inputs[:3])
    if node.target in _PRODUCTS:
        return math.prod(sizes_of(node)) * inputs[0][-1]
    if node.target is aten.baddbmm.default:
        return math.prod(sizes_of(node)) * inputs[1][-1]
    if node.target is aten.linear.default:
        return math.prod(sizes_of(node)) * inputs[0][-1]
    if node.target in (aten.conv2d.default, aten.conv2d.padding):
        return math.prod(sizes_of(node)) * math.prod(inputs[1][1:])
    return 0


def tensor_bytes(tensors: dict[str, Tensor]) -> int:
    """Count the bytes of some tensors; a shared one counts once."""
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors.values()}.values())


@dataclass(frozen=True)
class CostTable:
    """Costs in whole numbers of one unit: parameters, multiply-adds, nanoseconds.

    Attributes:
        name: one word for the record: "params", "macs", "latency".
        words: what they are called in a sentence: "parameters".
        total: of the whole dense denoiser.
        sites: by site name, what it costs with so many channels left, units times width. A curve need be neither
            convex nor monotone.
        record: where the numbers come from, as JSON values, for the plan's record.
    """

    name: str
    words: str
    total: int
    sites: Mapping[str, Callable[[int], int]]
    record: Mapping[str, Any] = field(default_factory=dict)

    def of(self, site: Site, units: int, width: int | None = None) -> int:
        """Give what a site costs with `units` left, each `width` wide; None for their whole width."""
        return self.sites[site.name](units * (width or site.unit_width))

    def whole(self, site: Site) -> int:
        """Give what the dense site costs."""
        return self.of(site, site.units)

    def rest(self, sites: Sequence[Site]) -> int:
        """Give what everything outside the sites costs."""
        return self.total - sum(map(self.whole, sites))

    def kept(self, sites: Sequence[Site], entries: Mapping[str, SitePlan]) -> int:
        """Give what the denoiser costs under a plan."""
        return self.rest(sites) + sum(
            self.of(site, len(entries[site.name].kept), entries[site.name].width) for site in sites
        )


def params_table(program: Program, sites: Sequence[Site]) -> CostTable:
    """Count parameters."""
    whole = {site.name: site_params(program, site) for site in sites}
    return CostTable("params", "parameters", program_params(program), _in_proportion(sites, whole))


def macs_table(program: Program, sites: Sequence[Site]) -> CostTable:
    """Count multiply-adds at the captured sizes."""
    places = locate_all(program)
    whole = {site.name: site_macs(program, site, places[site]) for site in sites}
    return CostTable("macs", "multiply-adds", program_macs(program), _in_proportion(sites, whole))


# What a budget may count, by its name.
COUNTED: Mapping[str, Callable[[Program, Sequence[Site]], CostTable]] = {"params": params_table, "macs": macs_table}


def _in_proportion(sites: Sequence[Site], whole: Mapping[str, int]) -> dict[str, Callable[[int], int]]:
    return {site.name: partial(_share, whole[site.name], site.width) for site in sites}


def _share(whole: int, width: int, channels: int) -> int:
    return whole * channels // width
