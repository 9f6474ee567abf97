"""Quantize a program to int8 by PT2E, PyTorch's own flow: prepare, calibrate, convert."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from passes.capture.lower import lower
from passes.errors import ExportError, SlimDiffError, UsageError
from passes.program.inputs import unflatten
from passes.program.program import Program
from slimdiff_fx.other_libraries import first_line

WEIGHTED = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)  # what XNNPACK is to compute in int8


def quantize_pt2e(program: Program, calls: Sequence[Sequence[Tensor]], quantizer: Any = None) -> Program:
    """Quantize a program by ranges seen on recorded calls.

    Args:
        program: dense or slim, float32; it is left as it is.
        calls: what to calibrate on, one tensor for each placeholder; see `slimdiff_fx.quantize.recorded_calls`. All
            timesteps must be among them.
        quantizer: one of PT2E's; torchao's `X86InductorQuantizer` with its default configuration if None.

    Returns:
        A program of the same inputs and dynamic sizes, whose convolutions and linears have int8 weights and whose
        graph quantizes and dequantizes around them. It computes in float what the integers stand for; Inductor,
        AOTInductor and ExecuTorch make integer kernels of it. It can be lowered and exported, not slimmed.

    Raises:
        ExportError: torchao is not installed, or fails.
        UsageError: nothing to calibrate on.
    """
    if not calls:
        raise UsageError("there is nothing to calibrate on; give the inputs of at least one denoiser call")
    prepared = prepare_pt2e(program, quantizer)
    calibrate_pt2e(program, prepared, calls)
    return convert_pt2e(program, prepared)


def prepare_pt2e(program: Program, quantizer: Any = None) -> fx.GraphModule:
    """Lower the program and insert PT2E's observers; see `quantize_pt2e`."""
    return insert_pt2e_observers(lower(program).module(check_guards=False), quantizer)


def insert_pt2e_observers(graph_module: fx.GraphModule, quantizer: Any = None) -> fx.GraphModule:
    """Insert PT2E's observers into a graph whose linears and convolutions are operators; it is used up."""
    quantizer = x86_quantizer() if quantizer is None else quantizer
    with _torchao() as pt2e:
        prepared: fx.GraphModule = pt2e.prepare_pt2e(graph_module, quantizer)
    return prepared


def calibrate_pt2e(program: Program, prepared: fx.GraphModule, calls: Sequence[Sequence[Tensor]]) -> None:
    """Let PT2E's observers see the calls."""
    with torch.no_grad():
        for call in calls:
            args, kwargs = unflatten(program, call)
            prepared(*args, **kwargs)


def convert_pt2e(program: Program, prepared: fx.GraphModule) -> Program:
    """Turn observers into quantization; see `quantize_pt2e`."""
    with _torchao() as pt2e:
        converted: fx.GraphModule = pt2e.convert_pt2e(prepared)
    return replace(program, graph_module=fx.GraphModule(converted, converted.graph))


def x86_quantizer(*, reduce_range: bool = False) -> Any:
    """Make torchao's quantizer for Inductor on x86: static, uint8 activations, int8 weights by output channel.

    Args:
        reduce_range: use 7 bits for activations, for processors whose 8-bit products saturate (x86 without VNNI).

    Raises:
        ExportError: torchao is not installed.
    """
    with _torchao():
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        configuration = x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
        return x86.X86InductorQuantizer().set_global(configuration)


def xnnpack_quantizer() -> Any:
    """Make ExecuTorch's quantizer for its XNNPACK backend: static, int8, weights by output channel.

    Linears and convolutions alone, as on the other runtimes. By itself it takes additions, products and concatenations
    too: a residual stream that is rounded at every block costs `emoji` 30 times the error.

    Raises:
        ExportError: executorch is not installed.
    """
    with _torchao():
        try:
            from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
        except ImportError as error:
            raise ExportError("executorch is not installed: pip install 'slimdiff-fx[mobile]'") from error
        configuration = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
        quantizer = xnnpack.XNNPACKQuantizer().set_global(configuration)
        # The quantizer asks about weights too, whose nodes call nothing.
        return quantizer.set_filter_function(lambda node: node.op != "call_function" or node.target in WEIGHTED)


@contextmanager
def _torchao() -> Iterator[Any]:
    """Give torchao's PT2E module, keep its warnings to itself, and name what is missing or fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchao.quantization.pt2e import quantize_pt2e as pt2e
        except ImportError as error:
            raise ExportError("torchao is not installed: pip install 'slimdiff-fx[quant]'") from error
        try:
            yield pt2e
        except SlimDiffError:
            raise
        except Exception as error:  # quantizers raise what their parts raise
            raise ExportError(f"PT2E can't quantize the program: {first_line(error)}") from error
