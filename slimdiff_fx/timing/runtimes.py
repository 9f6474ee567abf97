"""What can run a denoiser: eager torch, Inductor, AOTInductor, OpenVINO and ONNX Runtime.

A runtime is one entry of `RUNTIMES`: what it needs, how it is made ready, and which version it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from passes.errors import UsageError
from passes.program.inputs import example_tensors
from passes.program.program import Program
from passes.program.torch_private import load_package
from slimdiff_fx.export.aoti import export_aoti
from slimdiff_fx.export.openvino import convert, import_openvino, openvino_runner
from slimdiff_fx.export.parity import measure_parity
from slimdiff_fx.export.to_onnx.runtime import PROVIDERS, require_onnxruntime
from slimdiff_fx.timing.onnxruntime_sessions import prepare_onnxruntime

Forward = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """One denoiser, or a part of one, ready to be run by any runtime.

    Attributes:
        name: for tables and files.
        module: eager; takes the program's arguments.
        program: captured at, or specialized to, the very sizes to be timed.
    """

    name: str
    module: nn.Module
    program: Program


@dataclass(frozen=True)
class Runtime:
    """A way to run a contestant.

    Attributes:
        require: raises what is missing on this machine, before anything slow is done.
        prepare: builds what runs one forward: (contestant, folder for files, threads, dtype to export in or None).
        packages: whose versions a measurement depends on, the runtime's own first.
        device: "cpu" or "cuda".
    """

    require: Callable[[], None]
    prepare: Callable[[Contestant, Path, int, torch.dtype | None], Forward]
    packages: tuple[str, ...]
    device: str = "cpu"

    def versions(self) -> dict[str, str]:
        """Give the versions of what is installed of its packages."""
        found = {}
        for package in self.packages:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return found


def require(backend: str) -> None:
    """Make sure that this machine has what the backend needs, before anything slow is done.

    Raises:
        UsageError: no such backend.
        ExportError: something is missing; the message names it.
    """
    runtime(backend).require()


def runtime(backend: str) -> Runtime:
    """Look a runtime up.

    Raises:
        UsageError: there is none of that name.
    """
    if backend not in RUNTIMES:
        raise UsageError(f"no backend {backend!r}; choose one of {', '.join(RUNTIMES)}")
    return RUNTIMES[backend]


def prepare(backend: str, contestant: Contestant, folder: Path, threads: int, dtype: torch.dtype | None) -> Forward:
    """Build what runs one forward of the contestant; the first call may compile.

    Args:
        backend: one of `RUNTIMES`; see `require`.
        contestant: what to run, at its program's example inputs.
        folder: where files may be written.
        threads: CPU threads, for runtimes with their own pool.
        dtype: to export in, for ONNX Runtime; None keeps the program's own.

    Raises:
        ExportError: the export or the runtime failed.
    """
    return runtime(backend).prepare(contestant, folder, threads, dtype)


def _prepare_torch(
    contestant: Contestant, folder: Path, threads: int, dtype: torch.dtype | None, *, compiled: bool
) -> Forward:
    # torch's own pool has the threads that the caller gave it
    module: Any = torch.compile(contestant.module) if compiled else contestant.module
    return _calling(module, contestant.program)


def _calling(module: Callable[..., Tensor], program: Program) -> Forward:
    args, kwargs = program.args, dict(program.kwargs)

    def forward() -> Tensor:
        with torch.inference_mode():
            return module(*args, **kwargs)

    return forward


def _prepare_aoti(contestant: Contestant, folder: Path, threads: int, dtype: torch.dtype | None) -> Forward:
    _refuse_dtype("aoti", dtype)
    program = contestant.program
    path = folder / f"{contestant.name}.pt2"
    # One comparison, at the sizes that are timed: a fast wrong answer is worth nothing.
    export_aoti(program, path, inputs=[example_tensors(program)])
    return _calling(load_package(path), program)


def _refuse_dtype(backend: str, dtype: torch.dtype | None) -> None:
    if dtype is not None:
        raise UsageError(
            f"{backend} runs a program in its own precision; leave {str(dtype).removeprefix('torch.')} out"
        )


def _prepare_openvino(contestant: Contestant, folder: Path, threads: int, dtype: torch.dtype | None) -> Forward:
    _refuse_dtype("openvino", dtype)
    program = contestant.program
    run = openvino_runner(convert(program), {"INFERENCE_NUM_THREADS": threads})
    inputs = example_tensors(program)
    measure_parity(program, run, [inputs], runtime="openvino CPU", tolerance=1e-4, dtype=torch.float32)
    return lambda: run(inputs)


def _prepare_onnxruntime(
    backend: str, contestant: Contestant, folder: Path, threads: int, dtype: torch.dtype | None
) -> Forward:
    return prepare_onnxruntime(backend, contestant.program, contestant.name, folder, threads, dtype)


RUNTIMES: Mapping[str, Runtime] = {
    "eager": Runtime(lambda: None, partial(_prepare_torch, compiled=False), ("torch",)),
    "inductor": Runtime(lambda: None, partial(_prepare_torch, compiled=True), ("torch",)),
    "aoti": Runtime(lambda: None, _prepare_aoti, ("torch",)),
    "openvino": Runtime(import_openvino, _prepare_openvino, ("openvino", "torch")),
    **{
        backend: Runtime(
            partial(require_onnxruntime, backend),
            partial(_prepare_onnxruntime, backend),
            ("onnxruntime", "onnxruntime-gpu", "onnxscript", "torch"),
            "cpu" if backend == "ort" else "cuda",
        )
        for backend in PROVIDERS
    },
}
BACKENDS = tuple(RUNTIMES)
