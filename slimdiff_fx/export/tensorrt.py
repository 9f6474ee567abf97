"""Write the ONNX file that TensorRT builds its engine from, say how, and build and compare it where a GPU is."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from passes.errors import ExportError
from passes.program.inputs import example_tensors, input_nodes
from passes.program.program import Program
from slimdiff_fx.export.parity import ParityReport, input_names, measure_parity, random_inputs
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import PROVIDERS, onnx_runner, require_onnxruntime
from slimdiff_fx.files.output_paths import expand

# TensorRT multiplies in TF32 unless told otherwise: 10 bits of each factor count, as in half precision.
TOLERANCE = 1e-2
CASES = 3
_BOUNDS = ("min", "opt", "max")


@dataclass(frozen=True)
class TensorRTReport:
    """What was written for TensorRT, and what was compared.

    Attributes:
        onnx: how ONNX Runtime's CPU provider compares with the program on the file.
        command: the `trtexec` command line that builds the engine.
        missing: what this machine lacks to build it; None where it was built.
        engine: how ONNX Runtime's TensorRT provider compares; None where something is missing.
    """

    onnx: ParityReport
    command: str
    missing: str | None
    engine: ParityReport | None

    def words(self) -> list[str]:
        """Say how it came out, in lines."""
        built = [f"the engine was not built here: {self.missing}"] if self.engine is None else self.engine.words()
        return [*self.onnx.words(), *built, f"to build it: {self.command}"]


def export_tensorrt(program: Program, path: str | Path, *, dtype: torch.dtype | None = None) -> TensorRTReport:
    """Export the program to ONNX for TensorRT; where ONNX Runtime's TensorRT provider starts, build and compare.

    The engine is for pictures and texts of the example's sizes, in batches from 1 to twice the example's.

    Args:
        program: dense or slim, float32.
        path: the `.onnx` file to write.
        dtype: torch.float16 for an engine in half precision.

    Raises:
        ExportError: the export failed, or a result is out of tolerance.
        CheckpointError: the file can't be written.
    """
    path = expand(path)
    onnx = export_onnx(program, path, dtype=dtype)
    command = trtexec_command(program, path, half=dtype == torch.float16)
    try:
        require_onnxruntime("tensorrt")
    except ExportError as error:
        return TensorRTReport(onnx, command, str(error), None)
    profile = {f"trt_profile_{bound}_shapes": shapes for bound, shapes in profiles(program).items()}
    settings = {**profile, "trt_fp16_enable": dtype == torch.float16}
    # The CUDA provider takes the nodes that TensorRT can't.
    runner, runtime = onnx_runner(path, [(PROVIDERS["tensorrt"], settings), (PROVIDERS["ort-cuda"], {})])
    if PROVIDERS["tensorrt"] not in runtime:
        raise ExportError(f"ONNX Runtime falls back from TensorRT to {runtime}; see its log for the reason")
    engine = measure_parity(
        program,
        runner,
        random_inputs(program, CASES),
        runtime=runtime,
        tolerance=TOLERANCE,
        dtype=dtype or torch.float32,
        path=str(path),
        sizes=onnx.sizes,
    )
    return TensorRTReport(onnx, command, None, engine)


def trtexec_command(program: Program, path: Path, *, half: bool = False, int8: bool = False) -> str:
    """Give the command line that builds an engine beside the file, `FILE.engine`."""
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={path.with_suffix('.engine')}"]
    words += [f"--{bound}Shapes={shapes}" for bound, shapes in profiles(program).items() if shapes]
    words += [option for option, given in (("--fp16", half), ("--int8", int8)) if given]
    return shlex.join(words)


def profiles(program: Program) -> dict[str, str]:
    """Give the shapes, "sample:2x4x64x64,...", that an engine is built for: at least, at best, at most."""
    named = [
        (name, tensor, _dynamic(node.meta["val"]))
        for name, node, tensor in zip(input_names(program), input_nodes(program), example_tensors(program), strict=True)
    ]
    return {
        bound: ",".join(f"{name}:{_shape(tensor, bound)}" for name, tensor, dynamic in named if dynamic)
        for bound in _BOUNDS
    }


def _dynamic(value: Tensor) -> bool:
    return any(isinstance(size, torch.SymInt) for size in value.shape)


def _shape(tensor: Tensor, bound: str) -> str:
    batch, *rest = tensor.shape
    return "x".join(map(str, ({"min": 1, "opt": batch, "max": 2 * batch}[bound], *rest)))
