"""Tell a plan's model from others: its structure exactly, its weights as far as a cast to half precision lets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from passes.errors import PlanError
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.sites.site import Site

SAMPLES = 4
# bf16 keeps 8 bits: a cast moves a weight by up to 0.4%.
RELATIVE = 0.01


def fingerprint(program: Program, sites: Sequence[Site]) -> dict[str, Any]:
    """Describe a program so that a plan can tell it from others.

    Args:
        program: a raised program.
        sites: all its sites.

    Returns:
        {"structure": hex sha256 over the sites and every parameter's name and shape,
        "weights": {site name: a few weights of its linears}}.
    """
    return fingerprint_parameters(dict(program.graph_module.named_parameters()), sites)


def fingerprint_parameters(parameters: Mapping[str, Tensor], sites: Sequence[Site]) -> dict[str, Any]:
    """Describe a model by its own parameters; the same as `fingerprint` of its program."""
    geometry = sorted(map(_geometry, sites), key=lambda each: each[0])
    shapes = sorted([name, list(parameter.shape)] for name, parameter in parameters.items())
    text = json.dumps([geometry, shapes], separators=(",", ":"))
    return {
        "structure": hashlib.sha256(text.encode()).hexdigest(),
        "weights": {site.name: _samples(parameters, site) for site in sites},
    }


def plan_for(
    program: Program,
    sites: Sequence[Site],
    entries: Mapping[str, SitePlan],
    policy: Mapping[str, Any] | None = None,
    updates: Mapping[str, Tensor] | None = None,
    predicted: Mapping[str, Any] | None = None,
) -> SlimPlan:
    """Make a plan for a program, which it will know again, with its sites as they were found.

    Args:
        program: the dense program.
        sites: all its sites.
        entries: by site name, what stays of each.
        policy: as in the plan, like the others.
        updates: new weights.
        predicted: what it is expected to cost.
    """
    found = {site.name: site for site in sites}
    return SlimPlan(fingerprint(program, sites), entries, policy or {}, updates or {}, predicted or {}, found=found)


def _geometry(site: Site) -> list[Any]:
    """Write a site's facts as JSON values.

    Plans and statistics that were saved before sites had slices are of sites that rows alone write, as wide as what
    reads them; those are still written as they were then, so that what was saved is still known.
    """
    reader, writers = site.reader, site.writers
    plain = reader.start == 0 and all(each.per_unit == reader.per_unit for each in writers)
    if not plain or len(site.slices) > len(writers) + 1:
        slices = [[each.path, each.side, each.start, each.per_unit] for each in site.slices]
        return [site.name, site.kind, site.units, slices, site.tap]
    starts: dict[str, list[int]] = {}
    for each in writers:
        starts.setdefault(each.path, []).append(each.start)
    return [site.name, site.kind, site.units, site.unit_width, list(map(list, starts.items())), site.tap]


def _samples(parameters: Mapping[str, Tensor], site: Site) -> list[float]:
    values: list[float] = []
    for path in site.paths:
        if f"{path}.weight" not in parameters:
            continue  # a norm without weights
        weight = parameters[f"{path}.weight"].detach()
        weight = weight.reshape(len(weight), -1)
        # a stride that no row length is likely to divide, so that the samples lie in different rows and columns
        places = [
            (at * weight.numel()) // SAMPLES + (at * 7919) % max(weight.numel() // SAMPLES, 1) for at in range(SAMPLES)
        ]
        rows = torch.tensor([place // weight.shape[1] for place in places], device=weight.device)
        columns = torch.tensor([place % weight.shape[1] for place in places], device=weight.device)
        values.extend(float(value) for value in weight[rows, columns].double().cpu())
    return values


def check_fingerprint(plan: SlimPlan, program: Program, sites: Sequence[Site]) -> None:
    """Refuse a plan that was made for another model.

    Args:
        plan: the plan.
        program: the program it is to be applied to.
        sites: all the program's sites.

    Raises:
        PlanError: sites, structure or weights differ.
    """
    check_parameters(plan, dict(program.graph_module.named_parameters()), sites)


def check_parameters(plan: SlimPlan, parameters: Mapping[str, Tensor], sites: Sequence[Site]) -> None:
    """Refuse a plan of another model, given the model's own parameters by name.

    Raises:
        PlanError: sites, structure or weights differ.
    """
    known = {site.name: site for site in sites}
    for name in plan.sites.keys() - known.keys():
        raise PlanError(f"the plan names site {name!r}, which this model does not have; make a plan for this model")
    for name in known.keys() - plan.sites.keys():
        raise PlanError(f"the plan says nothing about site {name!r}; make a plan for this model")
    for name, entry in plan.sites.items():
        site = known[name]
        if (entry.kind, entry.units) != (site.kind, site.units):
            raise PlanError(
                f"site {name!r} has {site.units} units ({site.kind}); the plan is for {entry.units} ({entry.kind}): "
                "the model may be slimmed already, or be another one"
            )
    own = fingerprint_parameters(parameters, sites)
    if plan.fingerprint.get("structure") != own["structure"]:
        raise PlanError("the plan was made for a model of another structure; make a plan for this model")
    weights = plan.fingerprint.get("weights")
    if not isinstance(weights, Mapping) or weights.keys() != own["weights"].keys():
        raise PlanError("the plan's fingerprint lacks the weights of some sites; write it anew with `slimdiff-fx plan`")
    for name, values in own["weights"].items():
        if not _close(weights[name], values):
            raise PlanError(f"the plan was made for other weights: site {name!r} differs; make a plan for this model")


def _close(planned: Any, own: list[float]) -> bool:
    if not isinstance(planned, Sequence) or len(planned) != len(own):
        return False
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in planned):
        return False
    # The floor is what fp16's smallest numbers are rounded by.
    return all(abs(left - right) <= RELATIVE * abs(right) + 1e-7 for left, right in zip(planned, own, strict=True))
