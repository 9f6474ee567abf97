"""What written weights really lose on the calibration set: in float64, after they were rounded to be stored.

Closed forms say what exact weights would lose. Stored ones are rounded, to half precision too; and a solution of a
nearly singular system may do worse than its own figure says. So no expected error is taken from what solved for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from passes.calibrate.moments import Covariance
from passes.plan.slim_plan import SitePlan
from passes.sites.site import Site
from passes.solve.least_squares import output_energy, rounding
from passes.solve.projections import block_diagonal
from passes.solve.reader import reader_weight


def output_loss(
    site: Site,
    entry: SitePlan,
    inputs: Covariance,
    parameters: Mapping[str, Tensor],
    updates: Mapping[str, Tensor],
    values: Tensor | None = None,
) -> float:
    """Compute E‖(W a + b) − (W' a' + b')‖² at the reader's output.

    Args:
        site: the dense site.
        entry: what stays of it.
        inputs: of a, with its mean, or not centred.
        parameters: the dense model's, by path.
        updates: new parameters by path, as they are stored; what is not among them is sliced.
        values: of narrower heads, a' = T a: float64 [heads, width, head_dim].

    Returns:
        In squared units of the output, and what rounding in float64 may have hidden is added: never too small.
    """
    weight, bias = f"{site.tap}.weight", f"{site.tap}.bias"
    dense = reader_weight(site, parameters)
    lost = dense.clone()
    if values is not None:
        lost -= reader_weight(site, updates) @ block_diagonal(values)
    else:
        columns = site.columns(entry.mask())
        lost[:, columns] -= reader_weight(site, updates) if weight in updates else dense[:, columns]
    offset = lost @ inputs.mean
    if bias in updates:
        offset -= _exact(updates[bias]) - _exact(parameters[bias])
    return output_energy(lost, inputs) + float(offset.square().sum()) + rounding(dense, inputs)


def storage_share(path: str, maps: Tensor, parameters: Mapping[str, Tensor], updates: Mapping[str, Tensor]) -> float:
    """Say how much of a narrower linear's weights their storage rounds away: Σ (stored − exact)² / Σ exact².

    What comes out of the linear loses about that share of its energy. (Exactly that, if its inputs are as large in
    every direction; calibration measures what leaves these linears, not what enters them.)

    Args:
        path: of the linear.
        maps: T of its new weights T W, by head, float64 [heads, width, head_dim].
        parameters: the dense model's, by path.
        updates: new parameters by path, as they are stored.
    """
    lost = energy = 0.0
    for name in (f"{path}.weight", f"{path}.bias"):
        if name in updates:
            dense = _exact(parameters[name]).reshape(len(maps), maps.shape[2], -1)
            exact = maps @ dense
            lost += float((_exact(updates[name]).reshape(exact.shape) - exact).square().sum())
            energy += float(exact.square().sum())
    return lost / energy if energy > 0 else 0.0


def _exact(value: Tensor) -> Tensor:
    return value.detach().double().cpu()
