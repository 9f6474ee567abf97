"""The families of denoisers as a test's parameter."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.toy_denoisers import FAMILIES

# These repeat SD 1.5's blocks with other widths and inputs, in a longer graph, or without a text.
LONG = ("unet_inpaint", "unet_sd21", "unet_sdxl", "unet_unconditional")


def of_families(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test on these families; those in `LONG` are slow."""
    return pytest.mark.parametrize(
        "family", [pytest.param(each, marks=pytest.mark.slow) if each in LONG else each for each in names]
    )


EVERY_FAMILY = of_families(sorted(FAMILIES))
