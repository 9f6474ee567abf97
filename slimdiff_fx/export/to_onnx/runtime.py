"""Run an ONNX file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passes.errors import ExportError
from slimdiff_fx.export.parity import Runner
from slimdiff_fx.first_line import first_line


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
