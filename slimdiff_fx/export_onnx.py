"""Write a program as ONNX, and prove on the spot that ONNX Runtime computes the same."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passes.errors import CheckpointError, ExportError, SlimDiffError
from passes.lower import lower
from passes.program import Program
from slimdiff_fx.cast_program import cast_program
from slimdiff_fx.parity import ParityReport, Runner, input_nodes, measure_parity, symbol_roles, untraced_inputs

OPSET = 20
# Largest difference over the largest prediction. Half precision has 11 bits; a UNet loses a digit of them on the way.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2}
# Where optimum and diffusers' ONNX pipelines look for them.
OUTPUT_NAME = "out_sample"
_NESTED = "added_cond_kwargs_"


def export_onnx(
    program: Program,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    opset: int = OPSET,
    tolerance: float | None = None,
    inputs: Sequence[Sequence[Tensor]] | None = None,
) -> ParityReport:
    """Export the program to an ONNX file and compare ONNX Runtime with the program at once.

    Batch, height, width and token count stay dynamic where the program has them dynamic. Weights over 2 GB go to
    `<path>.data` beside the file. Nothing is left at `path` unless it was compared and is within tolerance; a file
    that was there before stays until then.

    Args:
        program: dense or slim, float32 or float16.
        path: the file to write.
        dtype: torch.float16 casts weights, inputs and result of a float32 program (timestep waves stay in float32);
            None keeps the program's own.
        opset: ONNX operator set, 18 to 23. From 21 on GroupNormalization, from 23 on Attention stay whole, which
            newer runtimes like and older ones don't know.
        tolerance: largest |ONNX Runtime - program| / largest |program|; by default 1e-4 in float32, 1e-2 in float16.
        inputs: what to compare on, one tensor for each input in each case; by default batches 1, 3 and 65 at three
            sizes, token counts and timesteps that weren't traced.

    Returns:
        the comparison; the reference of a float16 export is the program in its own dtype.

    Raises:
        ExportError: the exporter or ONNX Runtime failed, a size got baked in, or the result is out of tolerance.
        CheckpointError: the file can't be written.
    """
    path = Path(path)
    target = dtype if dtype is not None else _weight_dtype(program)
    if target not in TOLERANCES:
        name = str(target).removeprefix("torch.")
        raise ExportError(f"ONNX export in {name} is not offered; pass dtype=torch.float32 or torch.float16")
    exported = program if target == _weight_dtype(program) else cast_program(program, target)
    cases = inputs if inputs is not None else untraced_inputs(program)
    with _placed(path) as scratch:
        _write(exported, scratch, opset)
        runner, runtime = onnx_runner(scratch)
        return measure_parity(
            program,
            runner,
            cases,
            runtime=runtime,
            tolerance=TOLERANCES[target] if tolerance is None else tolerance,
            dtype=target,
            path=str(path),
        )


def onnx_runner(path: Path, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> tuple[Runner, str]:
    """Load an ONNX file into ONNX Runtime.

    Args:
        path: the file.
        providers: execution providers, as ONNX Runtime takes them.

    Returns:
        what takes one tensor for each input, casts it to the input's dtype, and gives the prediction; and what it is,
        with version.

    Raises:
        ExportError: onnxruntime is not installed, or refuses the file; when running, refuses the inputs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "onnxruntime is not installed; install the extra: pip install 'slimdiff-fx[deploy]'"
        ) from error
    quiet_onnxruntime()
    try:
        session = onnxruntime.InferenceSession(str(path), providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
        raise ExportError(f"ONNX Runtime refuses {path.name}: {_first_line(error)}") from error
    expected = [(value.name, _NUMPY[value.type]) for value in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> Tensor:
        feeds = {name: tensor.numpy().astype(kind) for (name, kind), tensor in zip(expected, tensors, strict=True)}
        try:
            return torch.from_numpy(session.run(None, feeds)[0])
        except Exception as error:
            shapes = {name: value.shape for name, value in feeds.items()}
            raise ExportError(f"ONNX Runtime fails on inputs {shapes}: {_first_line(error)}") from error

    return run, f"onnxruntime {onnxruntime.__version__} {session.get_providers()[0]}"


def quiet_onnxruntime() -> None:
    """Keep ONNX Runtime from printing that this machine has no GPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)


_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


def _write(program: Program, path: Path, opset: int) -> None:
    names = [node.name.removeprefix(_NESTED) for node in input_nodes(program)]
    lowered = lower(_without_idle_squeezes(program))
    try:
        with _quiet():
            written = torch.onnx.export(
                lowered,
                dynamo=True,
                opset_version=opset,
                input_names=names,
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        raise ExportError(f"torch.onnx.export failed: {_first_line(error)}; try another opset than {opset}") from error
    if written is None:
        raise ExportError("torch.onnx.export gave nothing back")
    _name_dimensions(written.model, program)
    written.save(str(path))


def _without_idle_squeezes(program: Program) -> Program:
    """Take out squeezes of dimensions that aren't 1: torch passes over them, ONNX's Squeeze fails."""
    cleaned = program.copy()
    for node in list(cleaned.graph.nodes):
        if node.target is not torch.ops.aten.squeeze.dim:
            continue
        source = node.args[0]
        if node.meta["val"].dim() == source.meta["val"].dim():
            node.replace_all_uses_with(source)
            cleaned.graph.erase_node(node)
    cleaned.graph_module.recompile()
    return cleaned


def _name_dimensions(model: Any, program: Program) -> None:
    """Give dynamic dimensions readable names, and refuse a graph in which one got baked.

    The exporter calls them by the trace's symbols (s53); tools that fix a shape (TensorRT's profiles, onnxsim) need
    names that a person can know.
    """
    import onnx_ir

    rename: dict[str, str] = {}
    values = {symbol: role for symbol, (role, _) in symbol_roles(program).items()}
    for node, value in zip(input_nodes(program), model.graph.inputs, strict=True):
        for dim, size in enumerate(node.meta["val"].shape):
            if not isinstance(size, torch.SymInt):
                continue
            written = value.shape[dim]
            if isinstance(written, int):
                raise ExportError(
                    f"input {value.name!r}: dimension {dim} was dynamic and became {written} in the ONNX graph; "
                    "capture with other example sizes"
                )
            expression = size.node.expr
            if expression in values:
                rename.setdefault(str(written.value), values[expression])
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
def _placed(path: Path) -> Iterator[Path]:
    """Give a path in a scratch folder beside `path`; on success move the file and its external data into place.

    A scratch folder, because an ONNX file names its data file: both must be written under their final names.
    """
    if not path.absolute().parent.is_dir():
        raise CheckpointError(f"{path.parent} is no folder; make it first")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a file")
    scratch: Path | None = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.absolute().parent))
        yield scratch / path.name
        # The file last, so that it is never there without the data it names.
        for name in (f"{path.name}.data", path.name):
            if (scratch / name).exists():
                _flush(scratch / name)
                os.replace(scratch / name, path.with_name(name))
    except SlimDiffError:
        raise
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise CheckpointError(f"could not write {path}: {reason}; free space or choose another place") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _flush(file: Path) -> None:
    # Without this a power cut after the rename could leave an empty file under the final name.
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter reports its progress, and that torchvision isn't there, on streams that belong to our caller.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
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


def _weight_dtype(program: Program) -> torch.dtype:
    for parameter in program.graph_module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    raise ExportError("the program has no weights; nothing to export")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
