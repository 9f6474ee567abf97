"""A plan that needs no calibration: for questions in which only shapes matter (speed, memory)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from passes.errors import UsageError
from passes.fingerprint import fingerprint
from passes.plan import SitePlan, SlimPlan
from passes.program import Program
from passes.site import Site


def uniform_plan(program: Program, sites: Sequence[Site], keep: float, seed: int = 0) -> SlimPlan:
    """Keep the same share of every site's units, drawn at random.

    Args:
        program: what the plan is for.
        sites: all of its sites.
        keep: share of units that stays, in (0, 1]; at least one unit does.
        seed: of the draw.

    Raises:
        UsageError: the share is out of range.
    """
    if not 0 < keep <= 1:
        raise UsageError(f"the share to keep is {keep:g}; it must be in (0, 1]")
    generator = torch.Generator().manual_seed(seed)
    plans = {}
    for site in sites:
        count = max(1, round(site.units * keep))
        kept = torch.randperm(site.units, generator=generator)[:count].sort().values
        plans[site.name] = SitePlan(site.kind, site.units, tuple(kept.tolist()))
    return SlimPlan(fingerprint(program, sites), plans, {"uniform": keep, "seed": seed})
