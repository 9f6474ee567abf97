"""How a low-rank adapter of the dense model goes along with a site whose weights were solved for.

An adapter adds B A to a linear's weights W. What slimming does to W is linear in W: a linear that makes units becomes
T W, the one that reads them W P. So the slim model with T B A and B A P is what slimming makes of W + B A. Where whole
units go and nothing is solved for, T and P are the kept rows and columns, and no map is needed.

Biases are different: the reader's bias takes over the mean of what is gone, and an adapter has none. So P fits second
moments here, means included, where the reader's own weights fit covariances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance, Sums, covariance
from passes.plan.slim_plan import SitePlan
from passes.sites.site import Site
from passes.solve.compensation import Compensated
from passes.solve.known_moments import raise_unknown
from passes.solve.least_squares import refit
from passes.solve.projections import block_diagonal, give_back


def adapter_maps(site: Site, entry: SitePlan, sums: Sums, cut: Compensated) -> dict[str, Tensor]:
    """Solve for the maps of one site.

    Args:
        site: the dense site.
        entry: what stays of it.
        sums: its moments.
        cut: its new weights.

    Returns:
        By path. Where heads are narrower: of q, k and v the map T of each head, float32 [heads, width, head_dim]; of
        the reader P, float16 [heads * head_dim, heads * width]. Where units are gone and the kept weights of the
        reader were refitted: of the reader what kept inputs give of each that is gone, float16 [gone, kept]. Half
        precision is finer than what any calibration knows. Empty where nothing was solved for.
    """
    if f"{site.tap}.weight" not in cut.updates:
        return {}
    inputs = covariance(site, sums, centred=False)
    if cut.maps:
        found = _narrowed(raise_unknown(inputs, site.units), cut.maps[site.writers[-1].path])
    else:
        kept = site.channels(entry.mask())
        gone = torch.eye(len(kept), dtype=torch.float64)[~kept]
        found = refit(gone, inputs, kept.nonzero().flatten()).weight
    maps = {path: value.float() for path, value in cut.maps.items()}
    half = found.half()
    return {**maps, site.tap: half if bool(torch.isfinite(half).all()) else found.float()}


def _narrowed(inputs: Covariance, values: Tensor) -> Tensor:
    """Give P, what the channels of narrower heads give of those of the dense ones."""
    heads, _, head_dim = values.shape
    parts = [slice(head * head_dim, (head + 1) * head_dim) for head in range(heads)]
    identity = torch.eye(head_dim, dtype=torch.float64)
    each = [give_back(identity, inputs.matrix[part, part], values[head]) for head, part in enumerate(parts)]
    start = block_diagonal(torch.stack(each))
    everything = torch.eye(heads * head_dim, dtype=torch.float64)
    return refit(everything, inputs, block_diagonal(values), start).weight
