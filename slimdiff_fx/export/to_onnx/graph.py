"""Translate a program to an ONNX graph that runtimes like."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir
import torch

from passes.capture.lower import lower
from passes.errors import ExportError, SlimDiffError
from passes.program.inputs import input_nodes, symbol_roles
from passes.program.program import Program
from passes.program.torch_private import expression
from slimdiff_fx.export.cast_program import cast_program
from slimdiff_fx.export.input_sizes import SIZES, input_sizes
from slimdiff_fx.export.merged_attention import merge_attention
from slimdiff_fx.export.parity import input_names
from slimdiff_fx.export.to_onnx.drop_identities import drop_identities
from slimdiff_fx.export.to_onnx.tidy import tidy
from slimdiff_fx.export.to_onnx.translations import translations
from slimdiff_fx.other_libraries import first_line

# Where optimum and diffusers' ONNX pipelines look for them.
OUTPUT_NAME = "out_sample"
# Weights beyond this go beside the file. Protobuf's own bound is 2 GiB, but it holds everything twice while it writes.
EMBEDDED_BYTES = 2**30


def onnx_graph(program: Program, *, dtype: torch.dtype | None, opset: int, onnxruntime: bool) -> onnx_ir.Model:
    """Translate a program.

    Args:
        program: it is left as it is; the graph's weights are views of its own.
        dtype: to cast weights, inputs and result to; None keeps the program's own.
        opset: ONNX operator set.
        onnxruntime: use ONNX Runtime's own operators where it has kernels for them.

    Raises:
        ExportError: the exporter failed, or a dynamic size got baked in.
    """
    names = input_names(program)
    # Identities first: whether a cast is one is known as long as every tensor has the dtype that was traced.
    prepared = merge_attention(drop_identities(program))
    if dtype is not None:
        prepared = cast_program(prepared, dtype)
    lowered = lower(prepared)
    try:
        with _quiet():
            written = torch.onnx.export(
                lowered,
                dynamo=True,
                opset_version=opset,
                input_names=names,
                output_names=[OUTPUT_NAME],
                custom_translation_table=translations(opset, onnxruntime=onnxruntime),
                optimize=False,
                verbose=False,
            )
            if written is None:
                raise ExportError("torch.onnx.export gave nothing back")
            model: onnx_ir.Model = written.model
            tidy(model)
    except SlimDiffError:
        raise
    except Exception as error:  # the exporter raises whatever its passes raise
        raise ExportError(f"torch.onnx.export failed: {first_line(error)}; try another opset than {opset}") from error
    branches = [node.name for node in model.graph if node.op_type in ("If", "Loop", "Scan")]
    if branches:
        raise ExportError(f"the graph branches at {branches[0]!r}, so that no comparison at a few sizes would prove it")
    if model.opset_imports[""] != opset:
        raise ExportError(f"operator set {opset} can't be written; the exporter stays at {model.opset_imports['']}")
    _name_dimensions(model, program)
    model.metadata_props[SIZES] = input_sizes(program).to_json()
    return model


def save_graph(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph; weights of more than `EMBEDDED_BYTES` go to `<path>.data` beside it."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    onnx_ir.save(model, path, external_data=f"{path.name}.data" if size > EMBEDDED_BYTES else None)


def _name_dimensions(model: onnx_ir.Model, program: Program) -> None:
    """Give dynamic dimensions readable names, and refuse a graph in which one got baked.

    The exporter calls them by the trace's symbols (s53); tools that fix a shape (TensorRT's profiles, onnxsim) need
    names that a person can know.
    """
    rename: dict[str, str] = {}
    values = {symbol: role for symbol, (role, _) in symbol_roles(program).items()}
    for node, value in zip(input_nodes(program), model.graph.inputs, strict=True):
        assert value.shape is not None
        for dim, size in enumerate(node.meta["val"].shape):
            if not isinstance(size, torch.SymInt):
                continue
            written = value.shape[dim]
            if isinstance(written, int):
                raise ExportError(
                    f"input {value.name!r}: dimension {dim} was dynamic and became {written} in the ONNX graph; "
                    "capture with other example sizes"
                )
            symbols = expression(size)
            if symbols in values:
                rename.setdefault(str(written.value), values[symbols])
    pattern = re.compile(r"\bs\d+\b")

    def renamed(dimension: Any) -> Any:
        if isinstance(dimension, int) or dimension.value is None:
            return dimension
        return onnx_ir.SymbolicDim(pattern.sub(lambda match: rename.get(match[0], match[0]), str(dimension.value)))

    seen = list(model.graph.inputs) + [output for node in model.graph for output in node.outputs]
    for value in seen:
        if value.shape is not None and not value.shape.frozen:
            value.shape = onnx_ir.Shape([renamed(dimension) for dimension in value.shape])


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter reports its progress, and that torchvision isn't there, on streams that belong to our caller.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
