"""What may be chosen by name, as the command line offers it."""

from __future__ import annotations

from enum import StrEnum

from slimdiff_fx.export.formats import FORMATS


class Method(StrEnum):
    """How a plan is made."""

    best = "best"
    slimdiff = "slimdiff"
    obs = "obs"
    threshold = "threshold"


class Compensate(StrEnum):
    """What the kept units make up for."""

    none = "none"
    bias = "bias"
    lstsq = "lstsq"


class TimestepWeights(StrEnum):
    """How much timesteps count."""

    uniform = "uniform"
    noise = "noise"
    detail = "detail"


class CalibrateOn(StrEnum):
    """What the denoiser is watched on."""

    trajectory = "trajectory"
    pictures = "pictures"


class Normalize(StrEnum):
    """How scores are made comparable between sites."""

    max = "max"
    minmax = "minmax"


# What to export to.
Format = StrEnum("Format", list(FORMATS))  # type: ignore[misc]  # mypy wants the names written out


class Int8(StrEnum):
    """How to quantize what is exported."""

    static = "static"
    dynamic = "dynamic"
    weights = "weights"


class Target(StrEnum):
    """Which runtimes an ONNX file is for."""

    generic = "generic"
    onnxruntime = "onnxruntime"


class Residuals(StrEnum):
    """What adds to a UNet's activations."""

    controlnet = "controlnet"
    t2i_adapter = "t2i_adapter"


class Align(StrEnum):
    """Multiples that kernels like."""

    eight = "8"
    sixteen = "16"
    sixty_four = "64"


class Dtype(StrEnum):
    """In which precision to load, or to export."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
