"""The plan: what stays, site by site. JSON, so that it can be read, edited, compared and replayed.

Weights that were solved for anew (compensation, narrowed heads) are its `updates`, and what that does to an adapter of
the dense model its `adapter_maps`: tensors, kept beside the JSON text, which names each of them with its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from passes.errors import PlanError
from passes.sites.kinds import kind_names, kind_of
from passes.sites.site import Site, Slice

FORMAT = 2
# Before the names of adapter maps, where they lie in one file with updates.
_MAPS = "adapter_maps/"


@dataclass(frozen=True)
class SitePlan:
    """What stays of one site.

    Attributes:
        kind: of the site.
        units: how many there are.
        kept: indices of those that stay, ascending.
        width: channels that each kept head has afterwards; None leaves its width as it is. A head of less width is
            another function of the same input, so its site's weights must be among the plan's updates.
    """

    kind: str
    units: int
    kept: tuple[int, ...]
    width: int | None = None

    def mask(self) -> Tensor:
        """Give bool [units]; True keeps."""
        mask = torch.zeros(self.units, dtype=torch.bool)
        mask[list(self.kept)] = True
        return mask


@dataclass(frozen=True)
class SlimPlan:
    """Which units of which model stay.

    Examples:
        >>> text, tensors = plan.to_json(), plan.tensors()
        >>> again = slimdiff_fx.SlimPlan.from_json(text, tensors)
        >>> again.sites == plan.sites
        True

    Attributes:
        fingerprint: of the model it was made for (see `passes.plan.fingerprint`): {"structure": hex digest,
            "weights": {site name: a few sampled weights}}.
        sites: by site name, every site of the program.
        policy: how it came about, for the record: method, criterion, threshold, budget, ...
        updates: new values of parameters, by their path and in their slim shape; the others are sliced.
        predicted: what the plan is expected to cost in quality: "relative_mse" of the prediction, and by site its own
            "site_error" on the calibration set and its part "relative_mse" of the prediction's. Where the budget was
            measured, "cost": what it is of, "dense" and "slim", and how it was measured.
        adapter_maps: by path of a linear whose weights were solved for, what takes an adapter of the dense linear
            along; see `passes.solve.adapter_maps`.
        found: the sites as they were found in the dense model, by name, so that the plan can be carried out on a model
            of which there is no program; empty in plans that were written before they had them.
    """

    fingerprint: Mapping[str, Any]
    sites: Mapping[str, SitePlan]
    policy: Mapping[str, Any] = field(default_factory=dict)
    updates: Mapping[str, Tensor] = field(default_factory=dict)
    predicted: Mapping[str, Any] = field(default_factory=dict)
    adapter_maps: Mapping[str, Tensor] = field(default_factory=dict)
    found: Mapping[str, Site] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, site in self.sites.items():
            if not site.kept:
                raise PlanError(f"site {name!r} keeps no unit; keep at least one")
            ordered = tuple(sorted(set(site.kept)))
            if ordered != tuple(site.kept) or ordered[0] < 0 or ordered[-1] >= site.units:
                raise PlanError(f"site {name!r}: kept units must be ascending, unique and below {site.units}")
            if site.width is not None and (site.width < 1 or not kind_of(site.kind).narrows):
                raise PlanError(f"site {name!r}: width {site.width} is for heads only, and at least 1")

    def __repr__(self) -> str:
        kept = sum(len(site.kept) < site.units or site.width is not None for site in self.sites.values())
        solved = f", {len(self.updates)} tensors solved for" if self.updates else ""
        expected = self.predicted.get("relative_mse")
        error = "" if expected is None else f", relative_mse={expected:.1e} expected"
        return f"SlimPlan({kept} of {len(self.sites)} sites cut{solved}{error}, policy={dict(self.policy)})"

    def copy(self) -> SlimPlan:
        """Copy the plan with its tensors."""
        updates, maps = (
            {name: value.detach().clone() for name, value in tensors.items()}
            for tensors in (self.updates, self.adapter_maps)
        )
        return replace(self, updates=updates, adapter_maps=maps)

    def to_json(self) -> str:
        """Write the plan as JSON text."""
        return json.dumps(
            {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
                "policy": self.policy,
                "predicted": self.predicted,
                "sites": {
                    name: {"kind": site.kind, "units": site.units, "kept": list(site.kept)}
                    | ({} if site.width is None else {"width": site.width})
                    | (_geometry(self.found[name]) if name in self.found else {})
                    for name, site in self.sites.items()
                },
                "updates": _digests(self.updates),
            }
            | ({"adapter_maps": _digests(self.adapter_maps)} if self.adapter_maps else {}),
            indent=1,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Give what belongs beside the JSON text, by name: updates and adapter maps."""
        return {**self.updates, **{f"{_MAPS}{path}": value for path, value in self.adapter_maps.items()}}

    @classmethod
    def from_json(cls, text: str, tensors: Mapping[str, Tensor] | None = None) -> SlimPlan:
        """Read a plan back.

        Args:
            text: what `to_json` gave.
            tensors: what `tensors` gave, which the text names.

        Raises:
            PlanError: the text is no JSON, of another format, holds an impossible site, or names other tensors.
        """
        beside = tensors or {}
        updates = {name: value for name, value in beside.items() if not name.startswith(_MAPS)}
        maps = {name.removeprefix(_MAPS): value for name, value in beside.items() if name.startswith(_MAPS)}
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"the plan is no valid JSON ({error}); write it anew with `slimdiff-fx plan`") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(f"plan format {found!r} is not {FORMAT}; write it anew with `slimdiff-fx plan`")
        try:
            sites = {name: _site_from(name, value) for name, value in data["sites"].items()}
            digests = {**data["updates"], **{f"{_MAPS}{path}": d for path, d in data.get("adapter_maps", {}).items()}}
            found = {name: _found_from(name, value) for name, value in data["sites"].items() if "slices" in value}
            plan = cls(data["fingerprint"], sites, data["policy"], updates, data["predicted"], maps, found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"the plan lacks or garbles {error}; write it anew with `slimdiff-fx plan`") from error
        if digests != _digests(beside):
            raise PlanError(
                f"the plan names {len(digests)} updated weights, and those that lie beside it are not they: keep the "
                ".safetensors file with its plan, or write both anew with `slimdiff-fx plan`"
            )
        return plan


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {path: _digest(value) for path, value in sorted(tensors.items())}


def _digest(value: Tensor) -> str:
    data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


def _site_from(name: str, value: Mapping[str, Any]) -> SitePlan:
    kind, units, kept = value["kind"], value["units"], value["kept"]
    if kind not in kind_names():
        raise PlanError(f"site {name!r}: unknown kind {kind!r}")
    if type(units) is not int or not all(type(unit) is int for unit in kept):
        raise PlanError(f"site {name!r}: units and kept must be whole numbers")
    width = value.get("width")
    if width is not None and type(width) is not int:
        raise PlanError(f"site {name!r}: width must be a whole number")
    return SitePlan(kind, units, tuple(kept), width)


def _geometry(site: Site) -> dict[str, Any]:
    """Write where a site is: of each slice its module, side, start and channels of a unit."""
    return {"slices": [[each.path, each.side, each.start, each.per_unit] for each in site.slices], "tap": site.tap}


def _found_from(name: str, value: Mapping[str, Any]) -> Site:
    slices = []
    for path, side, start, per_unit in value["slices"]:
        numbers = type(start) is int and type(per_unit) is int and start >= 0 and per_unit > 0
        if type(path) is not str or side not in ("out", "in", "channels") or not numbers:
            raise PlanError(f"site {name!r}: [{path!r}, {side!r}, {start!r}, {per_unit!r}] is no slice of a module")
        slices.append(Slice(path, side, start, per_unit))
    site = Site(name, value["kind"], value["units"], tuple(slices), value["tap"])
    if not site.writers or not any(each.path == site.tap and each.side == "in" for each in slices):
        raise PlanError(f"site {name!r}: no slice writes its units, or none reads them at {site.tap!r}")
    return site
