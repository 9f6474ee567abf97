"""What the analysis saw, site by site, in JSON values: scores, timesteps, error curves and other budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from passes.analyze.criteria import CRITERIA, choose, score
from passes.analyze.planner import Planner
from passes.analyze.sweep import TAUS, SweepPoint, sweep_budgets, sweep_thresholds
from passes.analyze.thresholds import normalize
from passes.calibrate.statistics import Statistics
from passes.names import Normalization
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.sites.kinds import kind_of
from passes.sites.site import Site

FORMAT = 1
EDGES = TAUS  # where the bars of a score distribution begin and end: where the thresholds of the sweep are
QUANTILES = (0.1, 0.5, 0.9)
_CURVE = 24  # sizes of a site that its error curve shows, at most


def site_analysis(
    program: Program,
    sites: Sequence[Site],
    statistics: Statistics,
    plan: SlimPlan,
    planner: Planner | None = None,
    criterion: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Describe what a plan was made from, small enough to be saved with it.

    Args:
        program: the dense program.
        sites: all its sites.
        statistics: of the calibration.
        plan: what was decided.
        planner: what found it; None where a threshold alone did.
        criterion: by which units were scored; defaults are shown where a method scores none.

    Returns:
        "scores": by site a histogram of them, divided as the plan divides them; "timesteps": by site and bucket their
        10%, 50% and 90% quantiles over units; "sweep": what other thresholds or budgets would keep; "curves": by site
        the expected error of each size.
    """
    how: Normalization = "minmax" if plan.policy.get("normalize") == "minmax" else "max"
    parameters = dict(program.graph_module.named_parameters())
    scores = score(sites, statistics, criterion, parameters=parameters)
    by_threshold = plan.policy.get("method") == "threshold"
    align = plan.policy.get("align")
    if by_threshold:
        taus = sorted({*TAUS, float(plan.policy["tau"])})
        points = sweep_thresholds(program, sites, scores, how, align, taus)
    else:
        assert planner is not None
        points = sweep_budgets(program, sites, planner, align, uniform=bool(plan.policy.get("uniform")))
    return {
        "format": FORMAT,
        "scores": {
            "criterion": choose(criterion),
            "normalize": how,
            "edges": [_short(edge) for edge in EDGES],
            "sites": {site.name: _histogram(normalize(scores[site.name], how)) for site in sites},
        },
        "timesteps": _timesteps(sites, statistics, choose(criterion)),
        "sweep": {"by": "tau" if by_threshold else "keep_params", "points": [_point(each, sites) for each in points]},
        "curves": None if by_threshold or planner is None else _curves(sites, planner, plan),
    }


def _histogram(relative: Tensor) -> list[int]:
    places = torch.bucketize(relative, torch.tensor(EDGES[1:], dtype=relative.dtype), right=True)
    # the largest score is exactly 1, the last edge: it belongs to the last bar
    counts: list[int] = places.clamp_max(len(EDGES) - 2).bincount(minlength=len(EDGES) - 1).tolist()
    return counts


def _timesteps(sites: Sequence[Site], statistics: Statistics, chosen: Mapping[Any, str]) -> dict[str, Any]:
    # What has no statistic of its own is not kept by timestep, as what sees the output: magnitudes are shown instead.
    shown = {
        kind: kind_of(kind).criterion if CRITERIA[name].statistic is None else name for kind, name in chosen.items()
    }
    spread = torch.tensor(QUANTILES, dtype=torch.float64)
    by_site: dict[str, Any] = {}
    for site in sites:
        statistic = CRITERIA[shown[site.kind]].statistic
        if statistic is None:
            continue
        largest = float(statistics.mean(site.name, statistic).max()) or 1.0
        values = statistics.mean_by_bucket(site.name, statistic) / largest
        rows = torch.quantile(values, spread, dim=1).T.tolist()
        by_site[site.name] = [None if math.isnan(row[0]) else [_short(value) for value in row] for row in rows]
    return {
        "criterion": shown,
        "timesteps": statistics.timesteps,
        "quantiles": list(QUANTILES),
        "sites": by_site,
    }


def _point(point: SweepPoint, sites: Sequence[Site]) -> dict[str, Any]:
    return {
        "at": _short(point.at),
        "params": point.params,
        "macs": point.macs,
        "error": None if point.error is None else _short(point.error),
        # channels that stay, in the order of the sites: units times their width
        "kept": [
            len(point.entries[site.name].kept) * (point.entries[site.name].width or site.unit_width) for site in sites
        ],
    }


def _curves(sites: Sequence[Site], planner: Planner, plan: SlimPlan) -> dict[str, Any]:
    by_site = {}
    for site in sites:
        sizes = planner.expected_errors(site)
        step = max(1, math.ceil((len(sizes) - 1) / (_CURVE - 1)))
        shown = sizes[::step] if (len(sizes) - 1) % step == 0 else [*sizes[::step], sizes[-1]]
        by_site[site.name] = [
            [choice.units * (choice.width or site.unit_width), _short(error)] for choice, error in shown
        ]
    return {"of": "prediction" if plan.policy.get("method") == "best" else "site", "sites": by_site}


def _short(value: float) -> float:
    """Round to four digits, for a small file."""
    return float(f"{value:.4g}")
