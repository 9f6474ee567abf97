"""One plan for all ranks."""

from __future__ import annotations

from safetensors.torch import load, save

from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.calibration.rank_sums import from_rank_0
from slimdiff_fx.calibration.ranks import Ranks


def plan_of_rank_0(plan: SlimPlan, ranks: Ranks) -> SlimPlan:
    """Give the plan that rank 0 made, on every rank; every rank has to call this.

    Equal statistics don't make equal plans: a matrix product rounds by where its operands lie in memory, so solved
    weights differ in their last digits from process to process, and a close choice may differ with them.

    Raises:
        RankError: a rank was lost.
    """
    own = [plan.to_json().encode(), save({path: value.contiguous() for path, value in plan.tensors().items()})]
    text, tensors = (from_rank_0(data if ranks.rank == 0 else b"") for data in own)
    return SlimPlan.from_json(text.decode(), load(tensors))
