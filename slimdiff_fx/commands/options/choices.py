"""What may be chosen by name, as the command line offers it: what is in a table is offered, in the table's order."""

from __future__ import annotations

from enum import StrEnum

from passes.names import COMPENSATIONS, NORMALIZATIONS
from passes.solve.recipes import RECIPES
from slimdiff_fx.calibration.timestep_weights import WEIGHTS
from slimdiff_fx.export.formats import FORMATS
from slimdiff_fx.names import AUTO, CALIBRATE_ON, ONNX_TARGETS, PRECISIONS, RESIDUALS

# mypy wants the names of each written out.
Method = StrEnum("Method", list(RECIPES))  # type: ignore[misc]
Compensate = StrEnum("Compensate", list(COMPENSATIONS))  # type: ignore[misc]
TimestepWeights = StrEnum("TimestepWeights", list(WEIGHTS))  # type: ignore[misc]
CalibrateOn = StrEnum("CalibrateOn", list(CALIBRATE_ON))  # type: ignore[misc]
Normalize = StrEnum("Normalize", list(NORMALIZATIONS))  # type: ignore[misc]
Format = StrEnum("Format", list(FORMATS))  # type: ignore[misc]
Int8 = StrEnum("Int8", list(dict.fromkeys(mode for form in FORMATS.values() for mode in form.int8)))  # type: ignore[misc]
Target = StrEnum("Target", list(ONNX_TARGETS))  # type: ignore[misc]
Residuals = StrEnum("Residuals", list(RESIDUALS))  # type: ignore[misc]
Dtype = StrEnum("Dtype", [AUTO, *PRECISIONS])  # type: ignore[misc]


class Align(StrEnum):
    """Multiples that kernels like; in Python any other may be given too."""

    eight = "8"
    sixteen = "16"
    sixty_four = "64"
