"""Write a program as OpenVINO IR and prove that OpenVINO computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from passes.capture.lower import lower
from passes.errors import ExportError
from passes.program.program import Program
from slimdiff_fx.export.cast_program import require_float32
from slimdiff_fx.export.input_sizes import SIZES, input_sizes
from slimdiff_fx.export.parity import ParityReport, Runner, input_names, measure_parity, untraced_inputs
from slimdiff_fx.files.atomic_write import replaced_files
from slimdiff_fx.files.own_files import OPENVINO, export_place
from slimdiff_fx.other_libraries import first_line

if TYPE_CHECKING:
    import openvino

# Largest difference over the largest prediction; what is measured on UNets is about 1e-6.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2}


def export_openvino(
    program: Program,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    inputs: Sequence[Sequence[Tensor]] | None = None,
) -> ParityReport:
    """Convert the program to OpenVINO IR, load it on the CPU and compare it with the program.

    Batch, height, width and token count stay dynamic. Attention and group norms stay whole.

    Args:
        program: dense or slim, float32.
        path: the `.xml` file to write; weights go to the `.bin` of the same name beside it.
        dtype: torch.float16 stores the weights in half precision; OpenVINO still computes in what its device prefers,
            float32 here. None keeps the program's own.
        tolerance: largest difference over the largest prediction; by default by dtype (`TOLERANCES`).
        inputs: what to compare on; by default batches 1, 3 and 65 at three sizes that weren't traced.

    Raises:
        ExportError: OpenVINO isn't installed, can't convert the program, or its result is out of tolerance.
        CheckpointError: the files can't be written.
    """
    import_openvino()
    import openvino

    if Path(path).suffix != ".xml":
        raise ExportError(f"OpenVINO's files end with .xml and .bin; name {Path(path).with_suffix('.xml').name!r}")
    place = export_place(path, OPENVINO)
    target = torch.float32 if dtype is None else dtype
    if target not in TOLERANCES:
        raise ExportError(f"OpenVINO export in {target} is not offered; choose torch.float32 or torch.float16")
    model = convert(program)
    with replaced_files(place, place.with_suffix(".bin")) as (written, _):
        openvino.save_model(model, written, compress_to_fp16=target == torch.float16)
        return measure_parity(
            program,
            openvino_runner(written),
            inputs if inputs is not None else untraced_inputs(program),
            runtime=f"openvino {openvino.__version__.partition('-')[0]} CPU",
            tolerance=TOLERANCES[target] if tolerance is None else tolerance,
            dtype=target,
            path=str(path),
            sizes=input_sizes(program).to_dict(),
        )


def import_openvino() -> None:
    """Make sure that OpenVINO is there.

    Raises:
        ExportError: it isn't.
    """
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ExportError("openvino is not installed: pip install 'slimdiff-fx[deploy]'") from error


def convert(program: Program) -> openvino.Model:
    """Give the program as an OpenVINO model in memory, its inputs under their own names.

    Raises:
        ExportError: the weights aren't float32, or OpenVINO can't convert it.
    """
    import openvino

    require_float32(program, "OpenVINO")
    exported = lower(program)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(exported)
    except Exception as error:  # its frontend raises what its parts raise
        raise ExportError(f"OpenVINO can't convert the program: {first_line(error)}") from error
    for value, name in zip(model.inputs, input_names(program), strict=True):
        value.set_names({name})
    model.set_rt_info(input_sizes(program).to_json(), SIZES)
    return model


def openvino_runner(model: Path | openvino.Model, settings: dict[str, Any] | None = None) -> Runner:
    """Compile a model for the CPU, in float32, and give what runs it on one tensor for each input.

    Args:
        model: in memory, or its `.xml` file.
        settings: further properties of the compiled model.

    Raises:
        ExportError: OpenVINO refuses the model.
    """
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", **(settings or {})}
    try:
        compiled = openvino.Core().compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO refuses the model: {str(error).strip().splitlines()[-1][:300]}") from error
    types = [value.element_type.to_dtype() for value in compiled.inputs]

    def run(tensors: Sequence[Tensor]) -> Tensor:
        feeds = [tensor.numpy().astype(kind) for tensor, kind in zip(tensors, types, strict=True)]
        return torch.from_numpy(compiled(feeds)[0])

    return run
