"""The plan: which units stay, site by site. JSON, so that it can be read, edited, compared and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from passes.errors import PlanError
from passes.site import Kind

FORMAT = 1


@dataclass(frozen=True)
class SitePlan:
    """What stays of one site: `kept` are the indices of the kept units, ascending."""

    kind: Kind
    units: int
    kept: tuple[int, ...]

    def mask(self) -> Tensor:
        """Give bool [units]; True keeps."""
        mask = torch.zeros(self.units, dtype=torch.bool)
        mask[list(self.kept)] = True
        return mask


@dataclass(frozen=True)
class SlimPlan:
    """Which units of which model stay.

    Attributes:
        fingerprint: of the model it was made for (see `passes.fingerprint`): {"structure": hex digest,
            "weights": {site name: a few sampled weights}}.
        sites: by site name, every site of the program.
        policy: how it came about, for the record: criterion, threshold, budget, ...
    """

    fingerprint: Mapping[str, Any]
    sites: Mapping[str, SitePlan]
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, site in self.sites.items():
            if not site.kept:
                raise PlanError(f"site {name!r} keeps no unit; keep at least one")
            ordered = tuple(sorted(set(site.kept)))
            if ordered != tuple(site.kept) or ordered[0] < 0 or ordered[-1] >= site.units:
                raise PlanError(f"site {name!r}: kept units must be ascending, unique and below {site.units}")

    def to_json(self) -> str:
        """Write the plan as JSON text."""
        return json.dumps(
            {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
                "policy": self.policy,
                "sites": {
                    name: {"kind": site.kind, "units": site.units, "kept": list(site.kept)}
                    for name, site in self.sites.items()
                },
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> SlimPlan:
        """Read a plan back.

        Raises:
            PlanError: the text is no JSON, of another format, or holds an impossible site.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"the plan is no valid JSON ({error}); write it anew with `slimdiff-fx plan`") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PlanError(f"plan format {found!r} is not {FORMAT}; write it anew with `slimdiff-fx plan`")
        try:
            sites = {name: _site_from(name, value) for name, value in data["sites"].items()}
            return cls(data["fingerprint"], sites, data.get("policy", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"the plan lacks or garbles {error}; write it anew with `slimdiff-fx plan`") from error


def _site_from(name: str, value: Mapping[str, Any]) -> SitePlan:
    kind, units, kept = value["kind"], value["units"], value["kept"]
    if kind not in ("attention", "feed_forward"):
        raise PlanError(f"site {name!r}: unknown kind {kind!r}")
    if type(units) is not int or not all(type(unit) is int for unit in kept):
        raise PlanError(f"site {name!r}: units and kept must be whole numbers")
    return SitePlan(kind, units, tuple(kept))
