"""Write a program as a `torch.export` archive (.pt2) and prove that the file computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from passes.arguments import check_kind
from passes.capture.lower import lower
from passes.errors import ExportError
from passes.program.inputs import unflatten
from passes.program.program import Program
from passes.program.torch_private import tree_leaves
from slimdiff_fx.export.cast_program import cast_program
from slimdiff_fx.export.input_sizes import SIZES, input_sizes
from slimdiff_fx.export.parity import ParityReport, measure_parity, untraced_inputs
from slimdiff_fx.files.atomic_write import replaced_file
from slimdiff_fx.files.own_files import PT2, export_place

# The same kernels run in the same order; only the layouts (contiguous or not) they get may differ.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def export_pt2(
    program: Program,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    inputs: Sequence[Sequence[Tensor]] | None = None,
) -> ParityReport:
    """Save the lowered program, load it back and compare it with the program.

    The file is what quantizers (PT2E), AOTInductor, ExecuTorch and OpenVINO start from: `torch.export.load(path)`.
    Which sizes it takes is in its extra file "slimdiff_fx.sizes.json".

    Examples:
        >>> report = slimdiff_fx.export_pt2(slim, "denoiser.pt2")
        >>> torch.export.load("denoiser.pt2").module()(*inputs).shape
        torch.Size([2, 4, 8, 8])

    Args:
        program: dense or slim.
        path: the file to write, `.pt2` by custom.
        dtype: cast the weights to this floating dtype first; None keeps the program's own.
        tolerance: largest difference over the largest prediction; by default by dtype (`TOLERANCES`).
        inputs: what to compare on; by default batches 1, 3 and 65 at three sizes that weren't traced.

    Raises:
        ExportError: saving or loading failed, or the loaded program's result is out of tolerance.
        CheckpointError: the file can't be written.
    """
    check_kind("program", program, Program, "the program that slimdiff_fx.capture or convert gives, or result.program")
    check_kind("path", path, (str, Path), "the file to write")
    place = export_place(path, PT2)
    own = next((parameter.dtype for parameter in program.graph_module.parameters()), torch.float32)
    target = own if dtype is None else dtype
    if target not in TOLERANCES:
        raise ExportError(f"export in {target} is not offered; choose one of {', '.join(map(str, TOLERANCES))}")
    exported = program if target == own else cast_program(program, target)
    lowered = lower(exported)
    sizes = input_sizes(program)
    with replaced_file(place) as partial:
        # torch.export.save wants the ending .pt2 of a path, but writes any open file.
        with warnings.catch_warnings(), partial.open("wb") as stream:
            warnings.simplefilter("ignore")
            torch.export.save(lowered, stream, extra_files={f"{SIZES}.json": sizes.to_json()})
        with warnings.catch_warnings(), partial.open("rb") as saved:
            warnings.simplefilter("ignore")
            module = torch.export.load(saved).module()

        def run(tensors: Sequence[Tensor]) -> Tensor:
            same = [tensor.to(example.dtype) for tensor, example in zip(tensors, examples, strict=True)]
            args, kwargs = unflatten(program, same)
            with torch.no_grad():
                result: Tensor = module(*args, **kwargs)
            return result

        examples = tree_leaves((tuple(exported.args), dict(exported.kwargs)))
        return measure_parity(
            program,
            run,
            inputs if inputs is not None else untraced_inputs(program),
            runtime=f"torch.export {torch.__version__}",
            tolerance=TOLERANCES[target] if tolerance is None else tolerance,
            dtype=target,
            path=str(path),
            sizes=sizes.to_dict(),
        )
