"""Refit a linear to fewer inputs: the weights that give its old output best, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from passes.calibrate.moments import Covariance
from passes.errors import CalibrationError

# Of the mean variance of the inputs. Measured on the built-in pipeline, the prediction's error is flat from 1e-5 to
# 1e-2; with fewer tokens than that takes, the noise of the covariance itself asks for more.
LEAST_RIDGE = 1e-4
RIDGE_PER_UNKNOWN = 1e-2
_ATTEMPTS = 4


@dataclass(frozen=True)
class Refit:
    """A linear's new weights.

    Attributes:
        weight: float64 [out, features].
        shift: float64 [out], what the bias gains.
        error: E‖W a + b − W' f − b'‖² on the calibration set, in squared units of the output.
    """

    weight: Tensor
    shift: Tensor
    error: float


def ridge(matrix: Tensor, count: float) -> float:
    """Choose λ: a share of the mean variance, the larger the fewer tokens there are for each unknown.

    Args:
        matrix: [n, n], covariance of the inputs.
        count: tokens that it was estimated on.
    """
    return ridge_of(matrix.diagonal(), count)


def ridge_of(variances: Tensor, count: float) -> float:
    """Choose λ as `ridge` does, by the variances of the inputs alone, [n]."""
    variance = float(variances.mean())
    return max(LEAST_RIDGE, RIDGE_PER_UNKNOWN * len(variances) / count) * (variance if variance > 0 else 1.0)


def rounding(weight: Tensor, inputs: Covariance) -> float:
    """Say below what an error at a linear's output can't be told from zero: n · 2⁻⁵² · E‖W a‖², n inputs.

    Each entry of a product of n terms in float64 is right to n · 2⁻⁵² of the terms it is summed from, and an error is a
    difference of such sums: of energies with the mean, for that is what a covariance was subtracted from.
    """
    weight = weight.double()
    mean = float((weight @ inputs.mean).square().sum())
    return weight.shape[1] * torch.finfo(torch.float64).eps * (output_energy(weight, inputs) + mean)


def ridge_factor(matrix: Tensor, count: float, penalty: float | None = None) -> Tensor:
    """Factorize C + λI by Cholesky, λ from `ridge`; ten times as large, and again, where rounding made C indefinite.

    Args:
        matrix: C, float64 [n, n].
        count: tokens that it was estimated on.
        penalty: λ, where it is not this matrix that it is chosen by.

    Raises:
        CalibrationError: C is not finite, or far from any covariance.
    """
    penalty = ridge(matrix, count) if penalty is None else penalty
    identity = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    for _ in range(_ATTEMPTS):
        found = torch.linalg.cholesky_ex(matrix + penalty * identity)
        factor: Tensor = found.L
        if int(found.info) == 0 and bool(torch.isfinite(factor).all()):
            return factor
        penalty *= 10
    raise CalibrationError("a covariance is not finite or not positive semidefinite: calibrate again, on more samples")


def refit(
    weight: Tensor, inputs: Covariance, features: Tensor, start: Tensor | None = None, penalty: float | None = None
) -> Refit:
    """Solve for the weights on fewer features that reproduce `weight @ a` best.

    Minimises E‖W a − X f‖² + λ‖X − X₀‖², by Cholesky in float64. At X₀ the penalty is zero: so the result's error is
    never above that of X₀, whatever λ is.

    Args:
        weight: W, [out, width].
        inputs: of a. Not centred, the mean is zero and so is the shift.
        features: int64 [n], which inputs stay; or float64 [n, width], a map f = T a.
        start: X₀, [out, n]; by default the kept columns, or zero for a map.
        penalty: λ; by default chosen by the features' own covariance. An error curve says of all its sizes what one λ
            gives: with that λ, a size never has more error than the curve says.

    Raises:
        CalibrationError: the covariance is not finite.
    """
    return refitted(weight, inputs, features, refit_weight(weight, inputs, features, start, penalty))


def refit_weight(
    weight: Tensor, inputs: Covariance, features: Tensor, start: Tensor | None = None, penalty: float | None = None
) -> Tensor:
    """Give the weights of `refit` alone, float64 [out, n], without what they cost."""
    weight, matrix = weight.double(), inputs.matrix
    chosen = not features.is_floating_point()
    onto = matrix[:, features] if chosen else matrix @ features.T  # C Tᵀ
    among = onto[features] if chosen else features @ onto  # T C Tᵀ
    if start is None:
        start = weight[:, features] if chosen else weight.new_zeros(len(weight), len(features))
    residual = weight @ onto - start @ among
    return start + torch.cholesky_solve(residual.T, ridge_factor(among, inputs.count, penalty)).T


def refitted(weight: Tensor, inputs: Covariance, features: Tensor, new: Tensor) -> Refit:
    """Say what given new weights cost, and which shift of the bias goes with them; arguments as `refit` takes them."""
    lost = lost_weight(weight, features, new)
    return Refit(new, lost @ inputs.mean, output_energy(lost, inputs))


def lost_weight(weight: Tensor, features: Tensor, new: Tensor) -> Tensor:
    """Give W − X T, what new weights lose of each input, float64 [out, width]; arguments as `refit` takes them."""
    weight = weight.double()
    if features.is_floating_point():
        return weight - new @ features
    lost = weight.clone()
    lost[:, features] -= new
    return lost


def output_energy(weight: Tensor, inputs: Covariance) -> float:
    """Compute E‖W (a − mean)‖² = tr(W C Wᵀ)."""
    weight = weight.double()
    return max(0.0, float(((weight @ inputs.matrix) * weight).sum()))
