"""What each method is made of, by its name. Without importing torch, so that listing them is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """What a method is made of.

    Attributes:
        heads: "narrow" makes all heads of a site narrower, where that can be; "remove" takes whole heads.
        neurons: chosen by backward "elimination" or by ridge "leverage".
        joint: refit across the heads of a site, on covariances. Otherwise each head by itself, on second moments, as
            spectral slimming was published.
        weighing: how a site's error counts: "sensitivity" measures what it does to the prediction, "relative"
            divides it by the energy of the block's output.
        uniform: the same share of each site, in place of the optimum.
        probed_shares: shares of a site at whose removal its sensitivity is measured.
    """

    heads: Literal["narrow", "remove"] = "narrow"
    neurons: Literal["elimination", "leverage"] = "elimination"
    joint: bool = True
    weighing: Literal["sensitivity", "relative"] = "sensitivity"
    uniform: bool = False
    probed_shares: tuple[float, ...] = (0.4, 0.75)


Method = str  # a name in RECIPES
RECIPES: Mapping[Method, Recipe] = {
    "best": Recipe(),
    "slimdiff": Recipe(neurons="leverage", joint=False, weighing="relative"),
    "obs": Recipe(heads="remove", uniform=True),
    "threshold": Recipe(heads="remove"),
}
