"""L1 magnitude as torch-pruning has it: its own importance, its own groups, its own pruner, on every site."""

from __future__ import annotations

import warnings

import torch
import torch_pruning
from torch import Tensor, nn

from benchmarks.quality.arena import Arena
from benchmarks.uniform_plan import plan_uniformly
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.region import cut_region
from passes.sites.find import locate_all
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes


def l1_plan(arena: Arena, removed: float, seed: int) -> SlimPlan:
    """Plan by torch-pruning's order of removal, the same share of each site; the seed changes nothing."""
    scores = arena.remember("torch-pruning l1", lambda: removal_scores(arena.captured.program))
    policy = KeepParams(arena.keep_params(removed))
    return plan_uniformly(arena.captured.program, arena.captured.sites, scores, policy)


def removal_scores(program: Program) -> dict[str, Tensor]:
    """Give every unit the turn at which torch-pruning's pruner takes it, float64 [units]; the last stay longest."""
    with torch.inference_mode(False), torch.enable_grad():
        return {site.name: _turns(program, site, nodes) for site, nodes in locate_all(program).items()}


def _turns(program: Program, site: Site, nodes: SiteNodes) -> Tensor:
    """Let the pruner take ever larger shares of one site, and note when each unit goes."""
    turns = torch.full((site.units,), float(site.units), dtype=torch.float64)
    steps = min(site.units, 64)
    for step in range(1, steps):
        for unit in _taken(program, site, nodes, step / steps):
            turns[unit] = min(float(turns[unit]), step + unit * 1e-6)
    return turns


def _taken(program: Program, site: Site, nodes: SiteNodes, share: float) -> list[int]:
    """Ask the pruner which units of a site it would remove at a share; nothing is removed."""
    region = cut_region(program, site, nodes)
    linears = {path: region.module.get_submodule(path) for path in site.paths[:-1]}
    heads: dict[nn.Module, int] = {}
    if site.unit_width > 1:
        heads = {
            linear: site.units * sum(each.path == path for each in site.writers) for path, linear in linears.items()
        }
    others = [
        module
        for module in region.module.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm) and module not in linears.values()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # every dictionary is passed: the pruner's defaults are shared between its instances
        pruner = torch_pruning.pruner.BasePruner(
            region.module,
            region.inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            pruning_ratio=share,
            ignored_layers=others,
            num_heads=heads,
            prune_num_heads=bool(heads),
            prune_head_dims=not heads,
            head_pruning_ratio=share,
            in_channel_groups={},
            out_channel_groups={},
            channel_groups={},
        )
        taken: set[int] = set()
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                if dependency.target.module is region.module.get_submodule(site.tap):
                    taken |= {int(index) // site.unit_width for index in indices}
    return sorted(taken)
