"""Write a program as OpenVINO IR with 8-bit weights, by NNCF, and measure at once what that costs."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from passes.errors import ExportError
from passes.program.program import Program
from slimdiff_fx.export.openvino import convert, import_openvino, openvino_runner
from slimdiff_fx.files.atomic_write import replaced_files
from slimdiff_fx.files.own_files import OPENVINO, export_place
from slimdiff_fx.other_libraries import first_line
from slimdiff_fx.quantize.int8_report import MAX_ERROR, Int8Report, measure_int8


def export_openvino_int8(
    program: Program, path: str | Path, held_out: Sequence[Sequence[Tensor]], *, max_error: float = MAX_ERROR
) -> Int8Report:
    """Convert the program to OpenVINO IR, store its weights in 8 bits, and compare OpenVINO with the float program.

    Weights of convolutions and linears get a scale for each output channel; activations stay in float. The file is a
    quarter of the size; a forward takes about as long as before.

    Args:
        program: dense or slim, float32.
        path: the `.xml` file to write; weights go to the `.bin` of the same name beside it.
        held_out: inputs to compare on, see `slimdiff_fx.quantize.recorded_calls`.
        max_error: largest relative squared error of the prediction on `held_out`.

    Raises:
        ExportError: OpenVINO or NNCF isn't installed, one of them failed, or the result is beyond `max_error`.
        CheckpointError: the files can't be written.
    """
    import_openvino()
    import openvino

    try:
        import nncf
    except ImportError as error:
        raise ExportError("nncf is not installed: pip install 'slimdiff-fx[quant]'") from error
    if Path(path).suffix != ".xml":
        raise ExportError(f"OpenVINO's files end with .xml and .bin; name {Path(path).with_suffix('.xml').name!r}")
    place = export_place(path, OPENVINO)
    model = convert(program)
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars
            compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    except Exception as error:  # NNCF raises errors of many classes
        raise ExportError(f"NNCF can't store the weights in 8 bits: {first_line(error)}") from error
    with replaced_files(place, place.with_suffix(".bin")) as (written, _):
        openvino.save_model(compressed, written, compress_to_fp16=False)
        return measure_int8(
            program,
            openvino_runner(written),
            held_out,
            runtime=f"openvino {openvino.__version__.partition('-')[0]} CPU",
            mode="weights",
            max_error=max_error,
            path=str(path),
        )
