"""Run an ONNX file in ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from passes.errors import ExportError
from slimdiff_fx.export.parity import Runner
from slimdiff_fx.other_libraries import first_line

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


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError("onnxruntime is missing: pip install onnxruntime-gpu (on macOS onnxruntime)") from error
    return onnxruntime


def onnx_runner(
    path: Path,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    threads: int | None = None,
    *,
    spinning: bool = False,
) -> tuple[Runner, str]:
    """Load an ONNX file into ONNX Runtime.

    Args:
        path: the file.
        providers: execution providers, as ONNX Runtime takes them.
        threads: CPU threads; None leaves that to ONNX Runtime.
        spinning: let threads wait for the next operator by spinning, ONNX Runtime's default: for timing. On a machine
            that others use it takes the cores that it waits for.

    Returns:
        what takes one tensor for each input, casts it to the input's dtype, and gives the prediction; and what it is,
        with version.

    Raises:
        ExportError: onnxruntime is not installed, or refuses the file; when running, refuses the inputs.
    """
    onnxruntime = import_onnxruntime()
    quiet_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0 is its own choice
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
        raise ExportError(f"ONNX Runtime refuses {path.name}: {first_line(error)}") from error
    expected = [(value.name, NUMPY[value.type]) for value in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> Tensor:
        feeds = {name: tensor.numpy().astype(kind) for (name, kind), tensor in zip(expected, tensors, strict=True)}
        try:
            return torch.from_numpy(session.run(None, feeds)[0])
        except Exception as error:
            shapes = {name: value.shape for name, value in feeds.items()}
            raise ExportError(f"ONNX Runtime fails on inputs {shapes}: {first_line(error)}") from error

    return run, f"onnxruntime {onnxruntime.__version__} {session.get_providers()[0]}"


def quiet_onnxruntime() -> None:
    """Keep ONNX Runtime from printing that this machine has no GPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)


# Of ONNX Runtime's names for types.
NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
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
