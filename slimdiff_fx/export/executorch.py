"""Write a program as an ExecuTorch program (.pte) and prove that its runtime computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passes.capture.lower import lower
from passes.errors import ExportError
from passes.program.inputs import example_tensors
from passes.program.program import Program
from passes.program.shapes import specialize
from slimdiff_fx.export.cast_program import require_float32
from slimdiff_fx.export.input_sizes import fixed_sizes
from slimdiff_fx.export.parity import ParityReport, measure_parity, random_inputs
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.own_files import EXECUTORCH, export_place
from slimdiff_fx.other_libraries import first_line, quiet_logging

# XNNPACK sums in another order than torch; what is measured on UNets is 1e-6, on transformers 2e-5.
TOLERANCE = 1e-4
CASES = 3


def export_executorch(
    program: Program,
    path: str | Path,
    *,
    tolerance: float = TOLERANCE,
    inputs: Sequence[Sequence[Tensor]] | None = None,
) -> ParityReport:
    """Compile the program for ExecuTorch's XNNPACK backend, load the file in its runtime and compare.

    The file holds for the program's example sizes alone: ExecuTorch plans its memory ahead. Capture at the sizes that
    the device will draw at.

    Args:
        program: dense, slim or quantized by PT2E, float32.
        path: the file to write, `.pte` by custom.
        tolerance: largest difference over the largest prediction.
        inputs: what to compare on, of the example's sizes; by default three of other values and timesteps.

    Raises:
        ExportError: ExecuTorch isn't installed, can't compile the program, or its result is out of tolerance.
        CheckpointError: the file can't be written.
    """
    place = export_place(path, EXECUTORCH)
    require_float32(program, "ExecuTorch's XNNPACK backend")
    with _executorch(), replaced_file(place) as partial:
        partial.write_bytes(_compile(program))
        return measure_parity(
            program,
            _runner(partial, program),
            inputs if inputs is not None else random_inputs(program, CASES),
            runtime=f"ExecuTorch {_version()} XNNPACK",
            tolerance=tolerance,
            dtype=torch.float32,
            path=str(path),
            sizes=fixed_sizes(program).to_dict(),
        )


def _compile(program: Program) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = lower(specialize(program))
    try:
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        compiled: bytes = edge.to_executorch().buffer
    except Exception as error:  # its passes raise what they raise
        raise ExportError(f"ExecuTorch can't compile the program: {first_line(error)}") from error
    return compiled


def _runner(file: Path, program: Program) -> Any:
    from executorch.runtime import Runtime

    try:
        method = Runtime.get().load_program(file).load_method("forward")
    except Exception as error:
        raise ExportError(f"ExecuTorch's runtime refuses the file: {first_line(error)}") from error
    examples = example_tensors(program)

    def run(tensors: Sequence[Tensor]) -> Tensor:
        same = [tensor.to(example.dtype).contiguous() for tensor, example in zip(tensors, examples, strict=True)]
        result: Tensor = method.execute(same)[0]
        return result.clone()  # the runtime writes the next one into the same memory

    return run


def _version() -> str:
    from importlib import metadata

    return metadata.version("executorch")


@contextmanager
def _executorch() -> Iterator[None]:
    """Name what is missing, and keep what the compiler reports about itself off the terminal."""
    with quiet_logging(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import executorch.exir
            import executorch.runtime  # noqa: F401
        except ImportError as error:
            raise ExportError("executorch is not installed: pip install 'slimdiff-fx[mobile]'") from error
        yield
