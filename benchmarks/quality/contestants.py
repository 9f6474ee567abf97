"""The methods that are compared. Each turns a budget into a plan: the share of the sites' weights that goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from benchmarks.quality.arena import Arena
from benchmarks.quality.torch_pruning_l1 import l1_plan
from benchmarks.uniform_plan import plan_uniformly
from passes.analyze.criteria import score
from passes.analyze.methods import analyze
from passes.analyze.planner import Planner
from passes.plan.costs import program_params, unit_params
from passes.plan.policies import KeepParams
from passes.plan.slim_plan import SlimPlan
from passes.solve.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class Contestant:
    """A method.

    Attributes:
        name: short.
        description: one line.
        make: (arena, share of the sites' weights to remove, seed) -> plan.
    """

    name: str
    description: str
    make: Callable[[Arena, float, int], SlimPlan]


def _planner(arena: Arena, seed: int, name: str, recipe: Recipe) -> Planner:
    captured = arena.captured
    return arena.remember(
        ("planner", name, seed),
        lambda: Planner(captured.program, captured.sites, arena.statistics(seed), recipe),
    )


def _by_recipe(name: str, recipe: Recipe) -> Callable[[Arena, float, int], SlimPlan]:
    def make(arena: Arena, removed: float, seed: int) -> SlimPlan:
        planner = _planner(arena, seed, name, recipe)
        return planner.within_cost(KeepParams(arena.keep_params(removed)), {"method": name}, lambda done, total: None)

    return make


def _threshold(compensation: str) -> Callable[[Arena, float, int], SlimPlan]:
    def make(arena: Arena, removed: float, seed: int) -> SlimPlan:
        return analyze(
            arena.captured.program,
            arena.captured.sites,
            arena.statistics(seed),
            KeepParams(arena.keep_params(removed)),
            method="threshold",
            compensation=compensation,  # type: ignore[arg-type]
        )

    return make


def _random(arena: Arena, removed: float, seed: int) -> SlimPlan:
    generator = torch.Generator().manual_seed(seed)
    scores = {site.name: torch.rand(site.units, generator=generator) for site in arena.captured.sites}
    return plan_uniformly(arena.captured.program, arena.captured.sites, scores, KeepParams(arena.keep_params(removed)))


def _flap(arena: Arena, removed: float, seed: int) -> SlimPlan:
    """FLAP: fluctuation, standardized in each site, one order over all sites; the mean goes into the bias."""
    program, sites, statistics = arena.captured.program, arena.captured.sites, arena.statistics(seed)
    parameters = dict(program.graph_module.named_parameters())
    fluctuation = score(sites, statistics, "fluctuation", parameters=parameters)
    standard = {name: (values - values.mean()) / values.std() for name, values in fluctuation.items()}
    least = min(float(values.min()) for values in standard.values())
    scores = {name: values - least + 1e-9 for name, values in standard.items()}
    # one order over all sites: shares of a site's largest would undo the standardization
    largest = max(float(values.max()) for values in scores.values())
    plan = _in_one_order(arena, {name: values / largest for name, values in scores.items()}, removed)
    planner = Planner(program, sites, statistics, RECIPES["threshold"], "bias")
    return planner.plan(dict(plan.sites), {"method": "flap"})


def _in_one_order(arena: Arena, scores: Mapping[str, torch.Tensor], removed: float) -> SlimPlan:
    """Remove units in ascending order of their scores, whatever their sites, until the budget is met."""
    program, sites = arena.captured.program, arena.captured.sites
    kept = {site.name: set(range(site.units)) for site in sites}
    order = sorted((float(value), site, unit) for site in kept for unit, value in enumerate(scores[site]))
    plan = plan_uniformly(program, sites, scores, KeepParams(1.0))
    share = arena.keep_params(removed)
    costs = arena.remember("unit shares", lambda: _unit_shares(arena))
    left = 1.0
    for _, site, unit in order:
        if left <= share:
            break
        if len(kept[site]) > 1:
            kept[site].discard(unit)
            left -= costs[site]
    entries = {name: replace(entry, kept=tuple(sorted(kept[name]))) for name, entry in plan.sites.items()}
    return replace(plan, sites=entries)


def _unit_shares(arena: Arena) -> dict[str, float]:
    total = program_params(arena.captured.program)
    return {site.name: unit_params(arena.captured.program, site) / total for site in arena.captured.sites}


CONTESTANTS: Mapping[str, Contestant] = {
    each.name: each
    for each in (
        Contestant("random", "random units, the same share of each site", _random),
        Contestant("l1", "torch-pruning's own L1 importance and pruner, the same share of each site", l1_plan),
        Contestant("threshold", "one global threshold on mean activations, no compensation", _threshold("none")),
        Contestant("threshold+lstsq", "the same, with the kept units refitted", _threshold("lstsq")),
        Contestant("flap", "FLAP: standardized fluctuation over all sites, mean into the bias", _flap),
        Contestant(
            "obs",
            "OBS-Diff: backward elimination with refit, the same share of each site",
            _by_recipe("obs", RECIPES["obs"]),
        ),
        Contestant(
            "modegpt",
            "MoDeGPT: narrower heads and Nyström feed-forwards, the same share of each site",
            _by_recipe("modegpt", replace(RECIPES["slimdiff"], uniform=True)),
        ),
        Contestant(
            "slimdiff",
            "SlimDiff: the same modules, sizes from one budget over relative site errors",
            _by_recipe("slimdiff", RECIPES["slimdiff"]),
        ),
        Contestant(
            "marginal",
            "backward elimination with refit, sizes by marginal error × sensitivity at one half",
            _by_recipe("marginal", Recipe(heads="remove", probed_shares=(0.5,))),
        ),
        Contestant(
            "best",
            "narrower heads, backward elimination, refit across sites, optimum of measured sensitivities",
            _by_recipe("best", RECIPES["best"]),
        ),
    )
}
