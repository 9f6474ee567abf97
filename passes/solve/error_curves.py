"""What each size of a site would cost: the error at its block's output, for every choice, refitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from passes.calibrate.moments import Covariance, Sums
from passes.plan.alignment import is_aligned
from passes.plan.slim_plan import SitePlan
from passes.sites.kinds import kind_of
from passes.sites.site import Site
from passes.solve.elimination import eliminate_heads, eliminate_neurons, leverage_order
from passes.solve.known_moments import raise_unknown
from passes.solve.least_squares import output_energy, ridge_factor, rounding
from passes.solve.projections import separate_width_errors, value_maps, width_errors
from passes.solve.scores import score_losses

Size = tuple[int, int]  # units, width of each


@dataclass(frozen=True)
class Choice:
    """One size of a site.

    Attributes:
        units: units that stay.
        width: channels of each; None for all of them.
        error: at least E‖W a − W' a'‖² at the reader's output on the calibration set.
    """

    units: int
    width: int | None
    error: float


@dataclass(frozen=True)
class ErrorCurve:
    """All sizes of a site that are offered, the whole one first and the smallest last.

    Attributes:
        site: which one.
        order: units in the order of their removal, all but one of them; empty where heads only become narrower.
        choices: sizes; their errors never fall.
        energy: E‖W (a − mean)‖², the error of giving back the mean alone.
        rounding: by how much two errors may differ and be the same, see `passes.solve.least_squares.rounding`. Whatever
            is cut, the error is at least this: only the whole has none.
    """

    site: Site
    order: tuple[int, ...]
    choices: tuple[Choice, ...]
    energy: float
    rounding: float = 0.0

    def raised(self, choice: Choice, error: float) -> ErrorCurve:
        """Give the curve with at least this error at a choice, and so at every smaller one."""
        at = self.choices.index(choice)
        smaller = (replace(each, error=max(each.error, error)) for each in self.choices[at:])
        return replace(self, choices=(*self.choices[:at], *smaller))

    def entry(self, choice: Choice) -> SitePlan:
        """Say which units a choice keeps."""
        gone = set(self.order[: self.site.units - choice.units])
        kept = tuple(unit for unit in range(self.site.units) if unit not in gone)
        return SitePlan(self.site.kind, self.site.units, kept, choice.width)


def widths_offered(site: Site) -> list[int]:
    """List the widths that heads may be narrowed to, descending.

    Fused attention kernels like multiples of 8; heads too narrow for that are offered every width.
    """
    step = 8 if site.unit_width >= 32 else 1
    return [width for width in range(site.unit_width - 1, 0, -1) if width % step == 0]


def narrows(site: Site) -> bool:
    """Say whether a site's heads can be made narrower at all."""
    return kind_of(site.kind).narrowable(site) and bool(widths_offered(site))


def sizes_offered(site: Site, narrow: bool, align: int | None) -> list[Size]:
    """List the sizes of a site that a plan may choose, from the whole one down.

    Args:
        site: the dense site.
        narrow: heads become narrower where they can; otherwise whole heads go.
        align: as policies have it.
    """
    if narrow and narrows(site):
        smaller = [(site.units, width) for width in widths_offered(site)]
    else:
        smaller = [(units, site.unit_width) for units in range(site.units - 1, 0, -1)]
    return [(site.units, site.unit_width), *(size for size in smaller if is_aligned(site, *size, align))]


def removal_curve(site: Site, weight: Tensor, inputs: Covariance) -> ErrorCurve:
    """Offer every number of units, in the order of backward elimination with refit.

    Args:
        site: the site.
        weight: of its reader, [out, width].
        inputs: covariance of what is read.
    """
    single = site.unit_width == 1
    found = eliminate_neurons(weight, inputs) if single else eliminate_heads(weight, inputs, site.units)
    return _curve(site, weight, inputs, found.order, found.errors)


def leverage_curve(site: Site, weight: Tensor, inputs: Covariance) -> ErrorCurve:
    """Offer every number of neurons, in the order of their ridge leverage, refitted (Nyström).

    A choice's error is E‖W a − W' a'‖² + λ‖W − W'‖², as in backward elimination: what its weights do is never more.
    """
    order = leverage_order(inputs)
    # One factorization L Lᵀ, kept units first: each prefix of it is that of those kept, and what they can't give of
    # the output is the rest of Lᵀ Wᵀ.
    kept_first = order.flip(0)
    factor = ridge_factor(inputs.matrix[kept_first][:, kept_first], inputs.count)
    gone_first = (factor.T @ weight.double()[:, kept_first].T).square().sum(1).flip(0)
    return _curve(site, weight, inputs, tuple(order[:-1].tolist()), gone_first.cumsum(0)[:-1].tolist())


def width_curve(site: Site, weight: Tensor, inputs: Covariance, sums: Sums, *, joint: bool = True) -> ErrorCurve:
    """Offer narrower heads, every width of `widths_offered`.

    A choice's error is that of the values, and for the scores the same share of the output's energy as is lost of
    theirs: an upper end of what that can do to the output, so that no width looks free which isn't.

    Args:
        site: an attention.
        weight: of its output linear.
        inputs: covariance of what enters that.
        sums: the site's, for queries and keys.
        joint: refit the output linear across heads.
    """
    energy = output_energy(weight, inputs)
    scores = score_losses(sums, centred=joint)
    known = raise_unknown(inputs, site.units)
    maps = value_maps(weight, known, site.units)
    errors = (width_errors if joint else separate_width_errors)(weight, known, maps)
    close = rounding(weight, inputs)
    choices = [Choice(site.units, None, 0.0)]
    for width in widths_offered(site):
        error = max(errors[width - 1], energy * scores[width - 1]) + close
        choices.append(Choice(site.units, width, max(error, choices[-1].error)))
    return ErrorCurve(site, (), tuple(choices), energy, close)


def _curve(
    site: Site, weight: Tensor, inputs: Covariance, order: tuple[int, ...], errors: Sequence[float]
) -> ErrorCurve:
    close = rounding(weight, inputs)
    choices = [Choice(site.units, None, 0.0)]
    for removed, error in enumerate(errors, start=1):
        choices.append(Choice(site.units - removed, None, max(error + close, choices[-1].error)))
    return ErrorCurve(site, order, tuple(choices), output_energy(weight, inputs), close)
