"""ONNX Runtime on its CPU, CUDA and TensorRT providers: what each needs, and how a program is run on it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from passes.errors import ExportError
from passes.program.program import Program
from slimdiff_fx.export.parity import example_tensors, input_names, symbol_roles
from slimdiff_fx.export.to_onnx.export import export_onnx
from slimdiff_fx.export.to_onnx.runtime import NUMPY, import_onnxruntime, quiet_onnxruntime
from slimdiff_fx.first_line import first_line

# Shared libraries each provider loads, in the order in which they are usually missing, and where they come from.
_DRIVER = ("libcuda.so.1", "an NVIDIA driver")
_LIBRARIES: dict[str, tuple[tuple[str, str], ...]] = {
    "ort-cuda": (
        _DRIVER,
        ("libcudart.so.12", "the CUDA 12 runtime (pip install nvidia-cuda-runtime-cu12)"),
        ("libcublasLt.so.12", "cuBLAS 12 (pip install nvidia-cublas-cu12)"),
        ("libcudnn.so.9", "cuDNN 9 (pip install nvidia-cudnn-cu12)"),
    ),
}
_LIBRARIES["tensorrt"] = (*_LIBRARIES["ort-cuda"], ("libnvinfer.so.10", "TensorRT 10 (pip install tensorrt-cu12)"))
PROVIDERS = {
    "ort": "CPUExecutionProvider",
    "ort-cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def require_onnxruntime(backend: str) -> None:
    """Make sure that this machine has what a provider needs.

    Raises:
        ExportError: something is missing; the message names it.
    """
    onnxruntime = import_onnxruntime()
    provider = PROVIDERS[backend]
    if provider not in onnxruntime.get_available_providers():
        raise ExportError(
            f"backend {backend}: this build of onnxruntime has no {provider}; "
            "install onnxruntime-gpu in place of onnxruntime"
        )
    if backend == "ort":
        return
    quiet_onnxruntime()
    missing = _missing_libraries(backend)
    if missing:
        raise ExportError(f"backend {backend}: {provider} is there but can't run without {'; without '.join(missing)}")
    refused = _refusal(provider)
    if refused:
        raise ExportError(f"backend {backend}: {provider} does not start: {refused}")


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


def _missing_libraries(backend: str) -> list[str]:
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        _silently(onnxruntime.preload_dlls)  # finds those that pip installed
    missing = []
    for name, source in _LIBRARIES[backend]:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(f"{name}, from {source}")
    return missing


def _refusal(provider: str) -> str | None:
    """Start the provider on a graph of one node; ONNX Runtime falls back in silence, so ask who got it."""
    import onnxruntime
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
        if session.get_providers()[0] != provider:
            return f"ONNX Runtime falls back to {session.get_providers()[0]}"
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
        return first_line(error)
    return None


def _silently(call: Callable[[], Any]) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        call()
