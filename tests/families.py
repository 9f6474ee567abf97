"""The families of denoisers as a test's parameter."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.toy_denoisers import FAMILIES

# These repeat SD 1.5's blocks with other widths and inputs, in a longer graph, or without a text.
LONG = ("unet_inpaint", "unet_sd21", "unet_sdxl", "unet_unconditional")


def of_families(names: Iterable[str], slow: Iterable[str] = LONG) -> pytest.MarkDecorator:
    """Run a test on these families; those in `slow` are so."""
    return pytest.mark.parametrize(
        "family", [pytest.param(each, marks=pytest.mark.slow) if each in slow else each for each in names]
    )


EVERY_FAMILY = of_families(sorted(FAMILIES))
# Where a UNet takes longest, and is left to the full run.
TRANSFORMERS_FIRST = of_families(sorted(FAMILIES), (*LONG, "unet_sd15"))
