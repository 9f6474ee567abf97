"""slimdiff_fx: slim diffusion denoisers with no training, by what their activations carry.

    result = slimdiff_fx.slim(pipe, prompts=prompts)
    result.save_pretrained("slim")          # later: DiffusionPipeline.from_pretrained("slim")

Names are imported when they are first used: torch finds this package at its own start (see `register`), and must not
be slowed down by it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slimdiff_fx.dense_on_slim import guard as _guard

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from passes.errors import SlimDiffError
    from passes.plan import SlimPlan
    from passes.policies import KeepMacs, KeepParams, MaxError, Threshold
    from passes.statistics import Statistics
    from slimdiff_fx.apply_plan import apply_plan
    from slimdiff_fx.compile_backend import compile_backend
    from slimdiff_fx.export_onnx import export_onnx
    from slimdiff_fx.export_pt2 import export_pt2
    from slimdiff_fx.latency.budget import KeepLatency
    from slimdiff_fx.lora import slice_lora
    from slimdiff_fx.slim import slim
    from slimdiff_fx.slim_models import (
        SlimDiTTransformer2DModel,
        SlimPixArtTransformer2DModel,
        SlimUNet2DConditionModel,
        SlimUNet2DModel,
    )
    from slimdiff_fx.slim_result import SlimResult
    from slimdiff_fx.stages import analyze, calibrate, capture, convert, lower, prepare

__version__ = "0.1.0"

_HOME = {
    "slim": "slimdiff_fx.slim",
    "SlimResult": "slimdiff_fx.slim_result",
    "capture": "slimdiff_fx.stages",
    "prepare": "slimdiff_fx.stages",
    "calibrate": "slimdiff_fx.stages",
    "analyze": "slimdiff_fx.stages",
    "convert": "slimdiff_fx.stages",
    "lower": "slimdiff_fx.stages",
    "export_onnx": "slimdiff_fx.export_onnx",
    "export_pt2": "slimdiff_fx.export_pt2",
    "apply_plan": "slimdiff_fx.apply_plan",
    "slice_lora": "slimdiff_fx.lora",
    "compile_backend": "slimdiff_fx.compile_backend",
    "Threshold": "passes.policies",
    "KeepParams": "passes.policies",
    "KeepMacs": "passes.policies",
    "KeepLatency": "slimdiff_fx.latency.budget",
    "MaxError": "passes.policies",
    "SlimPlan": "passes.plan",
    "Statistics": "passes.statistics",
    "SlimDiffError": "passes.errors",
    "SlimUNet2DConditionModel": "slimdiff_fx.slim_models",
    "SlimUNet2DModel": "slimdiff_fx.slim_models",
    "SlimPixArtTransformer2DModel": "slimdiff_fx.slim_models",
    "SlimDiTTransformer2DModel": "slimdiff_fx.slim_models",
    # diffusers recognises a component's kind by the base classes that its library exports.
    "ModelMixin": "diffusers",
}

__all__ = [
    "slim",
    "SlimResult",
    "capture",
    "prepare",
    "calibrate",
    "analyze",
    "convert",
    "lower",
    "export_onnx",
    "export_pt2",
    "apply_plan",
    "slice_lora",
    "compile_backend",
    "Threshold",
    "KeepParams",
    "KeepMacs",
    "KeepLatency",
    "MaxError",
    "SlimPlan",
    "Statistics",
    "SlimDiffError",
    "SlimUNet2DConditionModel",
    "SlimUNet2DModel",
    "SlimPixArtTransformer2DModel",
    "SlimDiTTransformer2DModel",
    "ModelMixin",
    "register",
]


def register() -> None:
    """Be called by torch at its own start: the package is imported then, so diffusers may load classes from it.

    diffusers loads components of a library named in model_index.json only if that library is imported already. The
    package therefore offers this function under the entry point that torch calls when it is imported, and saved
    pipelines load in a new process with no other code. A dense class that meets a slim folder there says so.
    """
    _guard()


class _Package(ModuleType):
    """Keeps `slimdiff_fx.slim` the function: importing the file slim.py would set the name to the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
