"""ONNX Runtime on its CPU, CUDA and TensorRT providers: what each needs, and how a program is run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from passes.errors import ExportError
from passes.program.inputs import example_tensors, symbol_roles
from passes.program.program import Program
from slimdiff_fx.export.parity import input_names
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import NUMPY, PROVIDERS


def prepare_onnxruntime(
    backend: str, program: Program, name: str, folder: Path, threads: int, dtype: torch.dtype | None
) -> Callable[[], None]:
    """Export a program and give what runs it once, at its example inputs.

    Args:
        backend: one of `PROVIDERS`; see `require_onnxruntime`.
        program: what to run.
        name: of the file.
        folder: where files may be written.
        threads: CPU threads.
        dtype: to export in; None keeps the program's own.

    Raises:
        ExportError: the export or the runtime failed.
    """
    import onnxruntime

    path = folder / f"{name}.onnx"
    # One comparison, at the sizes that are timed: a fast wrong answer is worth nothing.
    export_onnx(program, path, dtype=dtype, inputs=[example_tensors(program)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    provider = PROVIDERS[backend]
    settings = _tensorrt_settings(program, folder, dtype) if backend == "tensorrt" else {}
    providers = [(provider, settings)]
    if backend == "tensorrt":
        providers.append((PROVIDERS["ort-cuda"], {}))  # takes the nodes TensorRT can't
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if session.get_providers()[0] != provider:
        raise ExportError(f"backend {backend}: ONNX Runtime fell back to {session.get_providers()[0]}")
    device = "cpu" if backend == "ort" else "cuda"
    binding = session.io_binding()
    for value, tensor in zip(session.get_inputs(), example_tensors(program), strict=True):
        array = tensor.numpy().astype(NUMPY[value.type])
        binding.bind_ortvalue_input(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    # Input and result stay on the device, as in a pipeline's loop: the bus is not what is timed.
    binding.bind_output(session.get_outputs()[0].name, device)

    def forward() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return forward


def _tensorrt_settings(program: Program, folder: Path, dtype: torch.dtype | None) -> dict[str, Any]:
    # An engine is built for a range of shapes: here exactly the shapes that are timed.
    shapes = ",".join(
        f"{name}:{'x'.join(map(str, tensor.shape))}"
        for name, tensor in zip(input_names(program), example_tensors(program), strict=True)
        if tensor.dim()
    )
    settings: dict[str, Any] = {
        "trt_fp16_enable": dtype == torch.float16,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
    }
    if symbol_roles(program):
        settings.update({f"trt_profile_{bound}_shapes": shapes for bound in ("min", "opt", "max")})
    return settings
