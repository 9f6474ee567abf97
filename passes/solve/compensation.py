"""New weights for the modules of a site that was cut: what the survivors can make up for, in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from passes.calibrate.moments import Covariance, Sums, covariance
from passes.errors import UsageError
from passes.names import COMPENSATIONS, Compensation
from passes.plan.slim_plan import SitePlan
from passes.sites.site import Site
from passes.solve.known_moments import raise_unknown
from passes.solve.least_squares import lost_weight, output_energy, refit_weight, ridge
from passes.solve.projections import narrow_values, value_maps
from passes.solve.reader import reader_inputs, reader_weight, stored_like, updated_reader
from passes.solve.scores import score_loss, score_maps
from passes.solve.written import output_loss, storage_share


@dataclass(frozen=True)
class Compensated:
    """What a site's modules become.

    Attributes:
        updates: new parameters by path, in slim shapes and the model's own type.
        error: E‖Δ‖² at the reader's output on the calibration set, by the updates as they are stored (see
            `passes.solve.written`). Of narrower heads, if that is larger, the share that is lost of the scores times
            the energy of the output: an upper end of what that can do to it.
        maps: of narrower heads, what turns the dense query, key and value of each head into the slim one: by the
            linear's path, float64 [heads, width, head_dim].
    """

    updates: Mapping[str, Tensor]
    error: float
    maps: Mapping[str, Tensor] = field(default_factory=dict)


def compensate(
    site: Site,
    entry: SitePlan,
    sums: Sums,
    parameters: Mapping[str, Tensor],
    how: Compensation = "lstsq",
    *,
    implied_scale: bool = True,
    as_published: bool = False,
) -> Compensated:
    """Solve for the new weights of a site.

    Args:
        site: the dense site.
        entry: what stays of it. Narrower heads are always solved for, whatever `how` is.
        sums: its moments.
        parameters: the dense model's, by path.
        how: "none" leaves the kept weights; "bias" hands the removed units' mean to the bias; "lstsq" refits the kept
            weights as well.
        implied_scale: attention scales its scores by 1/√(head width): narrower heads must make up for that.
        as_published: second moments in place of covariances and each head by itself, as spectral slimming was
            published.

    Raises:
        UsageError: an unknown kind of compensation.
    """
    if how not in COMPENSATIONS:
        raise UsageError(f"unknown compensation {how!r}; there are {', '.join(COMPENSATIONS)}")
    weight = reader_weight(site, parameters)
    inputs = covariance(site, sums, centred=False) if as_published else reader_inputs(site, sums, parameters)
    if entry.width is not None and entry.width < site.unit_width:
        return _narrow(site, entry, sums, inputs, parameters, implied_scale=implied_scale, joint=not as_published)
    kept = site.columns(entry.mask())
    # λ of all inputs, as the error curves have it: with it no size loses more than they say
    penalty = ridge(inputs.matrix, inputs.count)
    new = refit_weight(weight, inputs, kept, penalty=penalty) if how == "lstsq" else weight[:, kept]
    shift = lost_weight(weight, kept, new) @ inputs.mean
    updates = {} if how == "none" else updated_reader(site, new, shift, parameters, only_bias=how == "bias")
    return Compensated(updates, output_loss(site, entry, inputs, parameters, updates))


def _narrow(
    site: Site,
    entry: SitePlan,
    sums: Sums,
    inputs: Covariance,
    parameters: Mapping[str, Tensor],
    *,
    implied_scale: bool,
    joint: bool,
) -> Compensated:
    if len(entry.kept) < site.units:
        raise UsageError(f"site {site.name!r}: heads are removed or made narrower, not both; choose one")
    width = entry.width or site.unit_width
    weight = reader_weight(site, parameters)
    known = raise_unknown(inputs, site.units)
    maps, found = narrow_values(weight, known, value_maps(weight, known, site.units), width, joint=joint)
    scores = score_maps(sums, centred=joint)
    # Attention divides by the root of the width that it finds: it shall be that of the dense one.
    scale = math.sqrt(width / site.unit_width) if implied_scale else 1.0
    updates = updated_reader(site, found.weight, found.shift, parameters)
    query, key, value = (each.path for each in site.writers)
    changes = {query: scores.query[:, :width] * scale, key: scores.key[:, :width], value: maps}
    for path, change in changes.items():
        for name in (f"{path}.weight", f"{path}.bias"):
            if name in parameters:
                dense = parameters[name].detach()
                heads = dense.double().cpu().reshape(site.units, site.unit_width, -1)
                updates[name] = stored_like(dense, (change @ heads).reshape(-1, *dense.shape[1:]))
    energy = output_energy(weight, inputs)
    lost = output_loss(site, entry, inputs, parameters, updates, maps)
    share = score_loss(sums, scores.query[:, :width], scores.key[:, :width], centred=joint)
    rounded = {path: storage_share(path, change, parameters, updates) for path, change in changes.items()}
    error = max(lost + rounded[value] * energy, (share + rounded[query] + rounded[key]) * energy)
    return Compensated(updates, error, changes)
