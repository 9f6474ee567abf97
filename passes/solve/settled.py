"""Have the statistics settled? What one half of the calibration set asks for should do on the other half."""

from __future__ import annotations

import statistics as numbers
from collections.abc import Mapping, Sequence

from torch import Tensor

from passes.calibrate.moments import COUNT, Covariance, Sums
from passes.calibrate.statistics import Statistics
from passes.sites.site import Site
from passes.solve.known_moments import raise_unknown
from passes.solve.least_squares import output_energy
from passes.solve.projections import narrow_values, value_maps
from passes.solve.reader import reader_inputs, reader_weight

# Weights from one half may have so many times the error, on the other half, of weights from that one.
SETTLED = 1.5
_SHARE = 0.5  # of each head that is tried


def split_half_ratio(sites: Sequence[Site], statistics: Statistics, parameters: Mapping[str, Tensor]) -> float | None:
    """Narrow heads by what each half of the calibration set says, and compare their errors on the other half.

    Args:
        sites: all sites.
        statistics: with second moments; those of the odd half are subtracted for the even one.
        parameters: the model's, by path.

    Returns:
        The median over sites and halves of (error on a half, weights from the other) over (its own weights): 1
        where the set is large enough. None where one half saw nothing.
    """
    ratios = []
    for site in sites:
        odd = statistics.halves.get(site.name)
        if odd is None or site.unit_width < 2:
            continue
        even = {name: values - odd[name] for name, values in statistics.moments[site.name].items()}
        if not (float(odd[COUNT]) > 0 and float(even[COUNT]) > 0):
            return None
        ratios += [_ratio(site, odd, even, parameters), _ratio(site, even, odd, parameters)]
    return numbers.median(ratios) if ratios else None


def _ratio(site: Site, mine: Sums, others: Sums, parameters: Mapping[str, Tensor]) -> float:
    weight = reader_weight(site, parameters)
    inputs = reader_inputs(site, mine, parameters)
    own, foreign = (_lost(site, weight, reader_inputs(site, sums, parameters)) for sums in (mine, others))
    best = output_energy(own, inputs)
    return output_energy(foreign, inputs) / best if best > 0 else 1.0


def _lost(site: Site, weight: Tensor, inputs: Covariance) -> Tensor:
    """Narrow a site's heads and give W − W' T: what its output loses of each input."""
    width = max(1, round(site.unit_width * _SHARE))
    known = raise_unknown(inputs, site.units)
    maps, found = narrow_values(weight, known, value_maps(weight, known, site.units), width, rounds=0)
    lost = weight.clone()
    for head, each in enumerate(maps):
        columns = slice(head * site.unit_width, (head + 1) * site.unit_width)
        lost[:, columns] -= found.weight[:, head * width : (head + 1) * width] @ each
    return lost
