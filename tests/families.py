"""The families of denoisers as a test's parameter."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.toy_denoisers import FAMILIES

# These repeat SD 1.5's blocks with other widths and inputs, or in a longer graph.
LONG = ("unet_inpaint", "unet_sd21", "unet_sdxl")


def of_families(names: Iterable[str], slow: Iterable[str] = LONG) -> pytest.MarkDecorator:
    """Run a test on these families; those in `slow` are so."""
    return pytest.mark.parametrize(
        "family", [pytest.param(each, marks=pytest.mark.slow) if each in slow else each for each in names]
    )


EVERY_FAMILY = of_families(sorted(FAMILIES))
# Where the UNet without text says nothing that the one with text does not.
FAMILIES_WITH_TEXT = of_families(sorted(FAMILIES), (*LONG, "unet_unconditional"))
