"""How much goes: a threshold, a budget, or an error that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import Any

from passes.errors import BudgetError, UsageError
from passes.names import NORMALIZATIONS, Normalization
from passes.plan.alignment import check_align
from passes.plan.costs import COUNTED, CostTable
from passes.program.program import Program
from passes.sites.site import Site

# The largest relative squared error of the prediction at which pictures of dense and slim could not be told apart by
# eye, see docs/adr/0012.
DEFAULT_MAX_ERROR = 1e-3


@dataclass(frozen=True)
class Threshold:
    """Keep every unit whose score, divided by its site's largest, is at least tau.

    Examples:
        >>> plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.Threshold(0.5))
        >>> plan.policy["method"]
        'threshold'

    Attributes:
        tau: in [0, 1]; 0 keeps everything.
        normalize: "max" divides by the site's largest score, "minmax" maps the site's scores to [0, 1] first.
        align: keep so many more units of each site that its channels are a multiple of this; None adds none.
    """

    tau: float = 0.05
    normalize: Normalization = "max"
    align: int | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.tau) and 0 <= self.tau <= 1):
            raise UsageError(f"`Threshold` is {self.tau!r}; it must be in [0, 1], such as 0.05")
        check_normalization(self.normalize)
        check_align(self.align)


@dataclass(frozen=True)
class Keep:
    """Keep at most this fraction of what the denoiser costs.

    Examples:
        >>> policy = slimdiff_fx.Keep(0.9, "macs")  # the same as KeepMacs(0.9)
        >>> slimdiff_fx.analyze(prepared, policy=policy).policy["budget"]
        {'macs': 0.9}

    Attributes:
        fraction: above 0, at most 1.
        costs: what is counted, a name in `passes.plan.costs.COUNTED`; or a table of what every size of every site
            costs, such as measured latencies.
        normalize: for "threshold", as in `Threshold`.
        align: hold the channels of every site that is cut to multiples of this; see `passes.plan.alignment`.
        uniform: give sites that are the same in every repeated block one size; see `passes.analyze.families`.
    """

    fraction: float
    costs: str | CostTable
    normalize: Normalization = "max"
    align: int | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.costs, CostTable) and self.costs not in COUNTED:
            raise UsageError(f"unknown costs {self.costs!r}; there are {', '.join(COUNTED)}, or give a table")
        check_fraction(f"Keep{self.counts.capitalize()}", self.fraction)
        check_normalization(self.normalize)
        check_align(self.align)

    @property
    def counts(self) -> str:
        """What is counted, in one word for the record."""
        return self.costs.name if isinstance(self.costs, CostTable) else self.costs

    @property
    def table(self) -> CostTable:
        """The costs, where they are a table.

        Raises:
            UsageError: they are a name, which needs a program to count in.
        """
        if not isinstance(self.costs, CostTable):
            raise UsageError(f"`costs` is {self.costs!r}; give a table of what every size of every site costs")
        return self.costs


@dataclass(frozen=True)
class KeepParams(Keep):
    """Keep at most this fraction of all the denoiser's parameters; the other attributes are those of `Keep`.

    Examples:
        >>> plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepParams(0.95))
        >>> slimdiff_fx.apply_plan(unet, plan).num_parameters() <= 0.95 * unet.num_parameters()
        True
    """

    costs: str | CostTable = field(default="params", init=False, repr=False)


@dataclass(frozen=True)
class KeepMacs(Keep):
    """Keep at most this fraction of all the denoiser's multiply-adds; the other attributes are those of `Keep`.

    Examples:
        >>> slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepMacs(0.95)).policy["budget"]
        {'macs': 0.95}
    """

    costs: str | CostTable = field(default="macs", init=False, repr=False)


@dataclass(frozen=True)
class MaxError:
    """Remove as many parameters as the prediction's expected error allows.

    Examples:
        >>> plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.MaxError(0.01))
        >>> plan.predicted["relative_mse"] <= 0.01
        True

    Attributes:
        error: largest relative squared error of the prediction, E‖slim − dense‖² / E‖dense‖².
        align: as in `KeepParams`.
        uniform: as in `KeepParams`.
    """

    error: float = DEFAULT_MAX_ERROR
    align: int | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        if not (is_number(self.error) and 0 < self.error < 1):
            raise UsageError(f"`MaxError` is {self.error!r}; it must be between 0 and 1, such as {DEFAULT_MAX_ERROR:g}")
        check_align(self.align)


Policy = Threshold | Keep | MaxError


def is_number(value: Any) -> bool:
    """Tell whether a value is a real number; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        UsageError: it is not above 0 and at most 1.
    """
    if not (is_number(fraction) and 0 < fraction <= 1):
        raise UsageError(f"`{name}` is {fraction!r}; it must be above 0 and at most 1, such as 0.9")


def check_normalization(how: str) -> None:
    """Refuse an unknown way to make scores comparable.

    Raises:
        UsageError: there is none of that name.
    """
    if how not in NORMALIZATIONS:
        raise UsageError(f"unknown normalization {how!r}; there are {' and '.join(map(repr, NORMALIZATIONS))}")


def price_list(program: Program, sites: Sequence[Site], policy: Keep) -> tuple[CostTable, int]:
    """Say what a budget counts, and how much of it may stay."""
    costs = policy.costs if isinstance(policy.costs, CostTable) else COUNTED[policy.costs](program, sites)
    return costs, int(Fraction(policy.fraction).limit_denominator(10**9) * costs.total)


def unmet(policy: Keep, costs: CostTable, least: int, with_what: str) -> BudgetError:
    """Make the error that says which budget could be met."""
    share = -(-least * 10_000 // costs.total) / 10_000
    return BudgetError(
        f"{policy.fraction:g} of the {costs.words} can't be met: with {with_what}, {share:g} of them stay; "
        f"ask for {share:g} or more"
    )
