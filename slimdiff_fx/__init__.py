"""slimdiff_fx: slim diffusion denoisers with no training, by what their activations carry.

    from diffusers import DiffusionPipeline
    import slimdiff_fx

    pipe = DiffusionPipeline.from_pretrained(folder)
    result = slimdiff_fx.slim(pipe, prompts=prompts)
    result.save_pretrained("slim")          # later: DiffusionPipeline.from_pretrained("slim")

In one call:
    slim            calibrate, analyze, rewrite and validate; gives a SlimResult

Stage by stage, in the words of PyTorch's quantization flow:
    capture         a denoiser as a graph
    prepare         observers in the graph
    calibrate       run batches through it; gives Statistics
    analyze         decide what stays; gives a SlimPlan
    convert         rewrite the graph by the plan, proved equal to masking
    lower           back to a torch.export.ExportedProgram

How much goes:
    MaxError        as much as this error of the prediction allows; the default, at 0.001
    KeepParams      at most this share of the parameters stays
    KeepMacs        at most this share of the multiply-adds
    KeepLatency     at most this share of the latency, measured here
    Keep            at most this share of whatever a table says that sites cost
    Threshold       every unit whose score is at least tau

With a plan or a slim program:
    apply_plan      slim an eager model
    compile_backend slim inside torch.compile
    slice_lora      slim an adapter of the dense model
    export_onnx     write an ONNX file, compared at once
    export_pt2      write an ExportedProgram, compared at once

Classes of saved denoisers: SlimUNet2DConditionModel, SlimUNet2DModel, SlimPixArtTransformer2DModel,
SlimDiTTransformer2DModel. Every error is a SlimDiffError. `help(slimdiff_fx.slim)` has the arguments.

Names are imported when they are first used: torch finds this package at its own start (see `register`), and must not
be slowed down by it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from slimdiff_fx.denoisers.slim.dense_on_slim import guard as _guard
from slimdiff_fx.version import __version__ as __version__

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from passes.calibrate.statistics import Statistics as Statistics
    from passes.errors import SlimDiffError as SlimDiffError
    from passes.plan.policies import Keep as Keep
    from passes.plan.policies import KeepMacs as KeepMacs
    from passes.plan.policies import KeepParams as KeepParams
    from passes.plan.policies import MaxError as MaxError
    from passes.plan.policies import Threshold as Threshold
    from passes.plan.slim_plan import SlimPlan as SlimPlan
    from slimdiff_fx.denoisers.slim.apply_plan import apply_plan as apply_plan
    from slimdiff_fx.denoisers.slim.lora import slice_lora as slice_lora
    from slimdiff_fx.denoisers.slim.models import SlimDiTTransformer2DModel as SlimDiTTransformer2DModel
    from slimdiff_fx.denoisers.slim.models import SlimPixArtTransformer2DModel as SlimPixArtTransformer2DModel
    from slimdiff_fx.denoisers.slim.models import SlimUNet2DConditionModel as SlimUNet2DConditionModel
    from slimdiff_fx.denoisers.slim.models import SlimUNet2DModel as SlimUNet2DModel
    from slimdiff_fx.export.pt2 import export_pt2 as export_pt2
    from slimdiff_fx.export.to_onnx.export import export_onnx as export_onnx
    from slimdiff_fx.latency.budget import KeepLatency as KeepLatency
    from slimdiff_fx.slimming.by_stages import analyze as analyze
    from slimdiff_fx.slimming.by_stages import calibrate as calibrate
    from slimdiff_fx.slimming.by_stages import capture as capture
    from slimdiff_fx.slimming.by_stages import convert as convert
    from slimdiff_fx.slimming.by_stages import lower as lower
    from slimdiff_fx.slimming.by_stages import prepare as prepare
    from slimdiff_fx.slimming.in_one_call import slim as slim
    from slimdiff_fx.slimming.result import SlimResult as SlimResult
    from slimdiff_fx.slimming.while_compiling import compile_backend as compile_backend

# Where each public name is. Type checkers read the imports above, so a name stands twice, and a test compares the two.
# lazy_loader would read one from a stub, but takes names from inside the package alone, and some are of `passes`.
_HOME = {
    "slim": "slimdiff_fx.slimming.in_one_call",
    "SlimResult": "slimdiff_fx.slimming.result",
    "capture": "slimdiff_fx.slimming.by_stages",
    "prepare": "slimdiff_fx.slimming.by_stages",
    "calibrate": "slimdiff_fx.slimming.by_stages",
    "analyze": "slimdiff_fx.slimming.by_stages",
    "convert": "slimdiff_fx.slimming.by_stages",
    "lower": "slimdiff_fx.slimming.by_stages",
    "export_onnx": "slimdiff_fx.export.to_onnx.export",
    "export_pt2": "slimdiff_fx.export.pt2",
    "apply_plan": "slimdiff_fx.denoisers.slim.apply_plan",
    "slice_lora": "slimdiff_fx.denoisers.slim.lora",
    "compile_backend": "slimdiff_fx.slimming.while_compiling",
    "Threshold": "passes.plan.policies",
    "KeepParams": "passes.plan.policies",
    "KeepMacs": "passes.plan.policies",
    "Keep": "passes.plan.policies",
    "KeepLatency": "slimdiff_fx.latency.budget",
    "MaxError": "passes.plan.policies",
    "SlimPlan": "passes.plan.slim_plan",
    "Statistics": "passes.calibrate.statistics",
    "SlimDiffError": "passes.errors",
    "SlimUNet2DConditionModel": "slimdiff_fx.denoisers.slim.models",
    "SlimUNet2DModel": "slimdiff_fx.denoisers.slim.models",
    "SlimPixArtTransformer2DModel": "slimdiff_fx.denoisers.slim.models",
    "SlimDiTTransformer2DModel": "slimdiff_fx.denoisers.slim.models",
    # diffusers recognises a component's kind by the base classes that its library exports.
    "ModelMixin": "diffusers",
}

__all__ = [*_HOME, "register"]


def register() -> None:
    """Be called by torch at its own start: the package is imported then, so diffusers may load classes from it.

    diffusers loads components of a library named in model_index.json only if that library is imported already. The
    package therefore offers this function under the entry point that torch calls when it is imported, and saved
    pipelines load in a new process with no other code. A dense class that meets a slim folder there says so.
    """
    _guard()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # pydoc writes out every class and lists every file, thousands of lines: without members it shows the docstring.
    asking = sys._getframe(1)
    while asking.f_globals.get("__name__") == "inspect" and asking.f_back is not None:
        asking = asking.f_back
    if asking.f_globals.get("__name__") == "pydoc":
        raise AttributeError("help(slimdiff_fx) is the docstring")
    return sorted(__all__)
