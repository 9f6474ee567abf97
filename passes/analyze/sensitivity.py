"""How strongly an error in a site reaches the prediction: run forward with one site changed, and look.

Nothing is rewritten for that: the dense graph runs with the site's new weights, padded with zeros to its own shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from passes.errors import CalibrationError
from passes.plan.slim_plan import SitePlan
from passes.plan.updates import dense_parameters
from passes.program.program import Program
from passes.program.torch_private import tree_flatten, tree_unflatten
from passes.sites.find import locate_all
from passes.sites.site import Site
from passes.sites.site_nodes import implied_scale

# Rows of one forward: large enough to be quick, small enough for any memory.
_ROWS = 32
Change = tuple[Site, SitePlan, Mapping[str, Tensor]]


class Prober:
    """Runs the probes of a calibration through a dense program with some sites changed.

    Args:
        program: the dense program.
        probes: inputs, each the flat list of their tensors.

    Raises:
        CalibrationError: there are no probes, or they are of another program.
    """

    def __init__(self, program: Program, probes: Sequence[Sequence[Tensor]]) -> None:
        leaves, self._spec = tree_flatten((program.args, dict(program.kwargs)))
        if not probes:
            raise CalibrationError("calibration kept no inputs to measure sensitivities on: calibrate with moments")
        if any(len(probe) != len(leaves) for probe in probes):
            raise CalibrationError("the calibration's inputs are of another program: calibrate anew")
        self._program = program
        self._examples = [torch.as_tensor(leaf) for leaf in leaves]
        self._parameters = dict(program.graph_module.named_parameters())
        self._scales = self.scales(program)
        self._batches = [self._inputs(probe) for probe in _joined(probes)]
        self._dense = [self._run({}, batch) for batch in self._batches]
        self._energy = sum(float(each.double().square().sum()) for each in self._dense)
        if not (math.isfinite(self._energy) and self._energy > 0):
            raise CalibrationError("the dense prediction on the calibration's inputs is zero or not finite")

    @staticmethod
    def scales(program: Program) -> dict[str, bool]:
        """Say of each site of a program whether its attention scales by 1/√(head width) by itself."""
        return {site.name: implied_scale(nodes) for site, nodes in locate_all(program).items()}

    def scale_is_implied(self, site: Site) -> bool:
        """Say whether a site's attention scales by 1/√(head width) by itself."""
        return self._scales[site.name]

    def relative_mse(self, changes: Sequence[Change]) -> float:
        """Measure Σ‖prediction − dense‖² / Σ‖dense‖² with some sites changed, each to an entry with its updates."""
        new: dict[str, Tensor] = {}
        for site, entry, updates in changes:
            scaled = self._scales[site.name]
            new.update(dense_parameters(site, entry, updates, self._parameters, implied_scale=scaled))
            weight = f"{site.tap}.weight"
            if len(entry.kept) < site.units and weight not in new:
                gone = ~site.channels(entry.mask())
                dense = self._parameters[weight].detach()
                new[weight] = dense.masked_fill(gone.reshape(-1, *[1] * (dense.dim() - 2)).to(dense.device), 0)
        error = 0.0
        for batch, dense in zip(self._batches, self._dense, strict=True):
            error += float((self._run(new, batch) - dense).double().square().sum())
        return error / self._energy

    def _inputs(self, probe: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = [leaf.to(example) for leaf, example in zip(probe, self._examples, strict=True)]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return args, kwargs

    def _run(self, new: Mapping[str, Tensor], batch: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
        args, kwargs = batch
        with torch.no_grad():
            result: Tensor = torch.func.functional_call(self._program.graph_module, dict(new), args, kwargs)
        return result


# More than any budget allows, and small enough to be multiplied.
_LOST = 1e12


def _joined(probes: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Join probes to larger batches, where every tensor is batched and of the same shape."""
    groups: dict[Any, list[Sequence[Tensor]]] = {}
    for number, probe in enumerate(probes):
        rows = {len(leaf) if leaf.dim() else 0 for leaf in probe}
        shapes = tuple((leaf.shape[1:], leaf.dtype) for leaf in probe)
        alone = len(rows) != 1 or 0 in rows
        groups.setdefault(number if alone else shapes, []).append(probe)
    joined = []
    for group in groups.values():
        leaves = [torch.cat(each) if each[0].dim() else each[0] for each in zip(*group, strict=True)]
        length = len(leaves[0]) if leaves[0].dim() else 1
        if len(group) == 1:
            joined.append(tuple(leaves))
            continue
        joined += [tuple(leaf[at : at + _ROWS] for leaf in leaves) for at in range(0, length, _ROWS)]
    return joined


@dataclass(frozen=True)
class Sensitivity:
    """What a site's own error becomes in the prediction.

    Attributes:
        site_errors: own errors at which it was measured, ascending.
        ratios: relative squared error of the prediction over own error, there.
        unseen: what the prediction moved by where the site's own error was nothing. Calibration samples tokens, and the
            site's own error is of those: so whatever is cut there is expected to move it by as much.
    """

    site_errors: tuple[float, ...]
    ratios: tuple[float, ...]
    unseen: float = 0.0

    def predict(self, error: float) -> float:
        """Estimate the prediction's relative squared error from the own error of a site that is cut.

        Ratios are interpolated by logarithm.
        """
        if error <= 0 or not self.ratios:
            return self.unseen
        ratio = np.interp(np.log(error), np.log(self.site_errors), np.log(self.ratios))
        return max(self.unseen, error * math.exp(ratio))


def sensitivity_from(points: Sequence[tuple[float, float]]) -> Sensitivity:
    """Build a sensitivity from pairs (own error, relative squared error of the prediction).

    Of several with the same own error the largest counts. Where the prediction never moved, the site reaches nothing.
    A prediction that wasn't finite, as half precision gives where it overflows, counts as lost altogether.
    """
    points = [(own, seen if math.isfinite(seen) else _LOST) for own, seen in points]
    largest: dict[float, float] = {}
    for own, seen in points:
        largest[own] = max(seen, largest.get(own, 0.0))
    useful = sorted((own, seen) for own, seen in largest.items() if own > 0 and seen > 0)
    unseen = max((seen for own, seen in points if own <= 0), default=0.0)
    return Sensitivity(tuple(own for own, _ in useful), tuple(seen / own for own, seen in useful), unseen)
