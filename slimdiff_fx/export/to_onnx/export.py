"""Write a program as ONNX, and prove on the spot that ONNX Runtime computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from passes.arguments import check_kind
from passes.errors import ExportError, UsageError
from passes.program.program import Program
from slimdiff_fx.export.input_sizes import input_sizes
from slimdiff_fx.export.parity import ParityReport, measure_parity, untraced_inputs
from slimdiff_fx.export.to_onnx.graph import onnx_graph, save_graph
from slimdiff_fx.export.to_onnx.runtime import onnx_runner
from slimdiff_fx.files.atomic_write import replaced_files
from slimdiff_fx.files.own_files import ONNX, export_place
from slimdiff_fx.names import ONNX_TARGETS

OPSET, OPSETS = 20, range(18, 26)
# An ONNX graph of a denoiser has no branches, so any other batches show that none is baked in. Small ones, for at the
# published sizes a large one would take longer than the export.
BATCHES = (1, 3, 5)
# Largest difference over the largest prediction. Half precision has 11 bits; a UNet loses a digit of them on the way.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2}


def export_onnx(
    program: Program,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    opset: int = OPSET,
    target: str = "generic",
    tolerance: float | None = None,
    inputs: Sequence[Sequence[Tensor]] | None = None,
) -> ParityReport:
    """Export the program to an ONNX file and compare ONNX Runtime with the program at once.

    Batch, height, width and token count stay dynamic where the program has them dynamic. Weights over a gigabyte go to
    `<path>.data` beside the file. Nothing is left at `path` unless it was compared and is within tolerance; a file
    that was there before stays until then.

    Examples:
        >>> report = slimdiff_fx.export_onnx(slim, "denoiser.onnx")
        >>> report.relative <= report.tolerance
        True

    Args:
        program: dense or slim, float32 or float16.
        path: the file to write.
        dtype: torch.float16 casts weights, inputs and result of a float32 program (timestep waves stay in float32);
            None keeps the program's own.
        opset: ONNX operator set, 18 to 25. From 21 on GroupNormalization, from 23 on Attention stay whole, which
            newer runtimes like and older ones don't know.
        target: "generic" uses ONNX's own operators only, and loads anywhere. "onnxruntime" uses ONNX Runtime's
            MultiHeadAttention, which is faster there, needs no memory for attention weights, and loads nowhere else.
        tolerance: largest |ONNX Runtime - program| / largest |program|; by default 1e-4 in float32, 1e-2 in float16.
        inputs: what to compare on, one tensor for each input in each case; by default batches 1, 3 and 5 at three
            sizes, token counts and timesteps that weren't traced.

    Returns:
        the comparison; the reference of a float16 export is the program in its own dtype.

    Raises:
        ExportError: the exporter or ONNX Runtime failed, a size got baked in, or the result is out of tolerance.
        CheckpointError: the file can't be written.
        UsageError: no such target or operator set.
    """
    check_kind("program", program, Program, "the program that slimdiff_fx.capture or convert gives, or result.program")
    check_kind("path", path, (str, Path), "the file to write")
    place = export_place(path, ONNX)
    own = _weight_dtype(program)
    wanted = own if dtype is None else dtype
    if wanted not in TOLERANCES:
        name = str(wanted).removeprefix("torch.")
        raise ExportError(f"ONNX export in {name} is not offered; pass dtype=torch.float32 or torch.float16")
    if target not in ONNX_TARGETS:
        raise UsageError(f"no ONNX target {target!r}; choose one of {', '.join(ONNX_TARGETS)}")
    if opset not in OPSETS:
        raise UsageError(f"ONNX operator set {opset} can't be written; choose {OPSETS[0]} to {OPSETS[-1]}")
    if inputs is None:
        inputs = untraced_inputs(program, BATCHES)
    with replaced_files(place, *ONNX.beside(place)) as (scratch, _):
        graph = onnx_graph(
            program,
            dtype=None if wanted == own else wanted,
            opset=opset,
            onnxruntime=target == "onnxruntime",
        )
        save_graph(graph, scratch)
        del graph  # a runtime is going to hold the weights as well
        runner, runtime = onnx_runner(scratch)
        return measure_parity(
            program,
            runner,
            inputs,
            runtime=runtime,
            tolerance=TOLERANCES[wanted] if tolerance is None else tolerance,
            dtype=wanted,
            path=str(path),
            sizes=input_sizes(program).to_dict(),
        )


def _weight_dtype(program: Program) -> torch.dtype:
    for parameter in program.graph_module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    raise ExportError("the program has no weights; nothing to export")
