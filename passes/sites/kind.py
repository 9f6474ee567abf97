"""What a kind of site is: one record, which every stage asks in place of branching on the kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from passes.program.program import Program
from passes.sites.site import Site, Unsupported
from passes.sites.site_nodes import SiteNodes

Found = tuple[Site, SiteNodes] | Unsupported


def _never(site: Site) -> bool:
    return False


def _no_module(site: Site, module: nn.Module, value: Tensor) -> bool:
    return False


def _no_sums(site: Site) -> Mapping[str, tuple[int, ...]]:
    return {}


@dataclass(frozen=True)
class Kind:
    """A kind of site. Adding one is a file that makes one of these, and its entry in `passes.sites.kinds`.

    What belongs to stages above this wing is typed there and only handed on here: `observer`, `curve` and `compensate`.

    Attributes:
        name: as plans and statistics have it: "attention", "feed_forward".
        words: what its units are called: "heads", "neurons".
        find: give every site of the kind in a program with its nodes, in graph order, or why one is left whole.
        mask_axis: axis of the observed activation on which the units are, so many of them: there the oracle multiplies
            by zero.
        tokens: lay that activation out as [batch, tokens, ...], all channels of a token in the order of the units.
        observer: what makes the observer of a site, see `passes.calibrate.observers.ObserverFactory`.
        criterion: name of the criterion that scores its units where none is asked for.
        curve: (site, reader's weight, covariance, sums, recipe) to the error of every size, a
            `passes.solve.error_curves.ErrorCurve`.
        compensate: how the rest makes up for what goes, as `passes.solve.compensation.compensate`.
        sums: shapes of what second moments it needs beside those of what is read, by name.
        narrowable: whether the units of a site can be made narrower.
        acts_alike: (site, module, value) whether a module among the site's nodes does the same to each unit, so that
            it stays whole; `value` is its output's.
    """

    name: str
    words: str
    find: Callable[[Program], list[Found]]
    mask_axis: int
    tokens: Callable[[Tensor], Tensor]
    observer: Callable[..., Any]
    criterion: str
    curve: Callable[..., Any]
    compensate: Callable[..., Any]
    sums: Callable[[Site], Mapping[str, tuple[int, ...]]] = _no_sums
    narrowable: Callable[[Site], bool] = _never
    acts_alike: Callable[[Site, nn.Module, Tensor], bool] = _no_module

    @property
    def narrows(self) -> bool:
        """Whether units of this kind can be made narrower at all."""
        return self.narrowable is not _never
