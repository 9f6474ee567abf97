"""Export a program to ONNX in int8, by ONNX Runtime's own quantizer, and measure at once what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from passes.errors import ExportError, UsageError
from passes.program.program import Program
from slimdiff_fx.export.to_onnx.export import OPSET
from slimdiff_fx.export.to_onnx.graph import onnx_graph, save_graph
from slimdiff_fx.export.to_onnx.runtime import onnx_runner, quiet_onnxruntime
from slimdiff_fx.files.atomic_write import replaced_files
from slimdiff_fx.files.own_files import ONNX, export_place
from slimdiff_fx.names import ONNX_TARGETS
from slimdiff_fx.other_libraries import first_line, quiet_logging
from slimdiff_fx.quantize.int8_report import MAX_ERROR, Int8Report, measure_int8

MODES = ("static", "dynamic")
# Dynamic convolutions have slow kernels and no scale for each channel.
_OPERATORS = {"static": ("Conv", "Gemm", "MatMul"), "dynamic": ("Gemm", "MatMul")}


def export_onnx_int8(
    program: Program,
    path: str | Path,
    held_out: Sequence[Sequence[Tensor]],
    *,
    mode: str = "static",
    calls: Sequence[Sequence[Tensor]] = (),
    opset: int = OPSET,
    target: str = "generic",
    max_error: float = MAX_ERROR,
    reduce_range: bool = False,
    symmetric: bool = False,
) -> Int8Report:
    """Export the program to an ONNX file in int8 and compare ONNX Runtime with the float program at once.

    Weights get a scale for each output channel. Products of two activations (in attention) stay in float, and with
    "static" also the convolution that reads the noisy picture and the one that writes the prediction: they are a
    hundredth of the work and a good part of the error.

    Args:
        program: dense or slim, float32.
        path: the file to write.
        held_out: inputs to compare on, see `slimdiff_fx.quantize.recorded_calls`.
        mode: "static" stores activations in 8 bits too, by ranges seen on `calls`: QuantizeLinear and
            DequantizeLinear around convolutions and linears, which ONNX Runtime fuses. "dynamic" needs no
            calibration: the linears' inputs are measured while they run; convolutions stay in float.
        calls: inputs to calibrate on, for "static". All timesteps must be among them: ranges differ by a lot.
        opset: ONNX operator set.
        target: "generic" or "onnxruntime", see `slimdiff_fx.export_onnx.export_onnx`.
        max_error: largest relative squared error of the prediction on `held_out`.
        reduce_range: use 7 bits for weights, for processors whose 8-bit products saturate (x86 without VNNI).
        symmetric: with "static", ranges of activations around zero and biases in float, as TensorRT wants them.

    Raises:
        ExportError: exporter, quantizer or runtime failed, or the result is beyond `max_error`.
        CheckpointError: the file can't be written.
        UsageError: no such mode or target, or nothing to calibrate on.
    """
    place = export_place(path, ONNX)
    if mode not in MODES:
        raise UsageError(f"no int8 mode {mode!r} of ONNX; choose one of {', '.join(MODES)}")
    if target not in ONNX_TARGETS:
        raise UsageError(f"no ONNX target {target!r}; choose one of {', '.join(ONNX_TARGETS)}")
    if mode == "static" and not calls:
        raise UsageError("static int8 needs inputs to calibrate on; give calls=, or choose mode='dynamic'")
    with replaced_files(place, *ONNX.beside(place)) as (scratch, _):
        plain = scratch.with_name(f"float-{scratch.name}")
        save_graph(onnx_graph(program, dtype=None, opset=opset, onnxruntime=target == "onnxruntime"), plain)
        try:
            quiet_onnxruntime()
            with quiet_logging():  # the quantizer advises its user through the root logger
                _quantize(plain, scratch, mode, calls, reduce_range=reduce_range, symmetric=symmetric)
        except Exception as error:  # the quantizer raises what its parts raise
            raise ExportError(f"ONNX Runtime can't quantize the graph: {first_line(error)}") from error
        runner, runtime = onnx_runner(scratch)
        return measure_int8(program, runner, held_out, runtime=runtime, mode=mode, max_error=max_error, path=str(path))


def _quantize(
    plain: Path, path: Path, mode: str, calls: Sequence[Sequence[Tensor]], *, reduce_range: bool, symmetric: bool
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    model = onnx.load(plain, load_external_data=False)
    _forget_weight_shapes(model.graph)
    onnx.save(model, plain)
    names = [value.name for value in model.graph.input]
    settings: dict[str, Any] = {
        "op_types_to_quantize": list(_OPERATORS[mode]),
        "per_channel": True,
        "reduce_range": reduce_range,
        "weight_type": QuantType.QInt8,
        # A product of two activations has no weight whose scales could be known.
        "extra_options": {"MatMulConstBOnly": True},
        "use_external_data_format": plain.with_name(f"{plain.name}.data").exists(),
    }
    if symmetric:
        settings["extra_options"] |= {"ActivationSymmetric": True, "QuantizeBias": False}
    if mode == "dynamic":
        quantize_dynamic(plain, path, **settings)
    else:
        quantize_static(
            plain,
            path,
            _Reader(names, calls),
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            nodes_to_exclude=_outermost(model.graph),
            **settings,
        )


class _Reader:
    """Gives ONNX Runtime's calibration one recorded call after the other."""

    def __init__(self, names: Sequence[str], calls: Sequence[Sequence[Tensor]]) -> None:
        self._names = names
        self._calls = iter(calls)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        call = next(self._calls, None)
        if call is None:
            return None
        return {name: tensor.numpy() for name, tensor in zip(self._names, call, strict=True)}


def _forget_weight_shapes(graph: onnx.GraphProto) -> None:
    """Leave out the weights' declared shapes, which they have anyway: the quantizer transposes some of them."""
    weights = {tensor.name for tensor in graph.initializer}
    declared = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(declared)


def _outermost(graph: onnx.GraphProto) -> list[str]:
    """Name the operators with weights that come first after the noisy picture and last before the prediction."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    first = _nearest(readers.get(graph.input[0].name, []), lambda node: _all(readers, node.output))
    last = _nearest(
        [makers[graph.output[0].name]], lambda node: [makers[name] for name in node.input if name in makers]
    )
    return sorted({*first, *last})


def _all(readers: Mapping[str, list[onnx.NodeProto]], names: Iterable[str]) -> list[onnx.NodeProto]:
    return [reader for name in names for reader in readers.get(name, [])]


def _nearest(start: Iterable[onnx.NodeProto], following: Callable[[onnx.NodeProto], list[onnx.NodeProto]]) -> set[str]:
    """Walk from operator to operator, along each way until the first that the quantizer would take."""
    found, seen, waiting = set(), set(), list(start)
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _OPERATORS["static"]:
            found.add(node.name)
        else:
            waiting += following(node)
    return found
