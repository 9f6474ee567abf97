"""Compile a program ahead of time with AOTInductor and prove that the package computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passes.capture.lower import lower
from passes.errors import ExportError
from passes.program.inputs import example_tensors, unflatten
from passes.program.program import Program
from passes.program.torch_private import compile_package, load_package
from slimdiff_fx.export.cast_program import cast_program
from slimdiff_fx.export.input_sizes import SIZES, input_sizes
from slimdiff_fx.export.parity import ParityReport, measure_parity, untraced_inputs
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.own_files import PT2, export_place
from slimdiff_fx.other_libraries import first_line

# Fused kernels sum in another order than eager ones.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def export_aoti(
    program: Program,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    inputs: Sequence[Sequence[Tensor]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ParityReport:
    """Compile the program to a package that runs without Python, load it and compare it with the program.

    It is compiled for the device that the weights are on, and for this machine's processor. Load it with
    `torch._inductor.aoti_load_package(path)`, or from C++ with `AOTIModelPackageLoader`. Give it contiguous inputs: it
    takes every tensor for one and reads past the end of an expanded timestep, with no error unless the environment has
    `AOTI_RUNTIME_CHECK_INPUTS=1`.

    Args:
        program: dense or slim.
        path: the file to write, `.pt2` by AOTInductor's own rule.
        dtype: cast the weights to this floating dtype first; None keeps the program's own.
        tolerance: largest difference over the largest prediction; by default by dtype (`TOLERANCES`).
        inputs: what to compare on; by default batches 1, 3 and 65 at three sizes that weren't traced.
        settings: of Inductor, such as {"max_autotune": True}.

    Raises:
        ExportError: no C++ compiler, compilation failed, or the result is out of tolerance.
        CheckpointError: the file can't be written.
    """
    place = export_place(path, PT2)
    if place.suffix != ".pt2":
        raise ExportError(f"AOTInductor's packages end with .pt2; name {place.with_suffix('.pt2').name!r}")
    own = next((parameter.dtype for parameter in program.graph_module.parameters()), torch.float32)
    target = own if dtype is None else dtype
    if target not in TOLERANCES:
        raise ExportError(f"export in {target} is not offered; choose one of {', '.join(map(str, TOLERANCES))}")
    compiled = program if target == own else cast_program(program, target)
    exported = lower(compiled)
    sizes = input_sizes(program)
    with replaced_file(place) as partial:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metadata = {"aot_inductor.metadata": {SIZES: sizes.to_json()}}
                compile_package(exported, partial, {**(settings or {}), **metadata})
                module = load_package(partial)
        except Exception as error:  # the compiler raises what its parts raise
            reason = first_line(error)
            raise ExportError(f"AOTInductor can't compile the program: {reason}") from error
        examples = example_tensors(compiled)

        def run(tensors: Sequence[Tensor]) -> Tensor:
            pairs = zip(tensors, examples, strict=True)
            same = [tensor.to(example.dtype).contiguous() for tensor, example in pairs]
            args, kwargs = unflatten(program, same)
            with torch.no_grad():
                result: Tensor = module(*args, **kwargs)
            return result.cpu()

        return measure_parity(
            program,
            run,
            inputs if inputs is not None else untraced_inputs(program),
            runtime=f"AOTInductor {torch.__version__}",
            tolerance=TOLERANCES[target] if tolerance is None else tolerance,
            dtype=target,
            path=str(path),
            sizes=sizes.to_dict(),
        )
