"""The families of denoisers as a test's parameter."""

from __future__ import annotations

import pytest

from tests.toy_denoisers import FAMILIES

# These repeat SD 1.5's blocks with other widths and inputs, or in a longer graph.
LONG = ("unet_inpaint", "unet_sd21", "unet_sdxl")
EVERY_FAMILY = pytest.mark.parametrize(
    "family", [pytest.param(each, marks=pytest.mark.slow) if each in LONG else each for each in sorted(FAMILIES)]
)
