"""Measure what quantizing costs: how far the int8 prediction is from the float one, on inputs that sampling gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from passes.errors import ExportError, UsageError
from passes.program.inputs import call_flat
from passes.program.program import Program
from slimdiff_fx.export.parity import Runner, untraced_inputs

# Relative squared error of the prediction. Beyond it pictures change visibly: with a tenth of it they still show the
# same thing. Usual errors are a tenth of this with static quantization, a hundredth with weights alone.
MAX_ERROR = 0.05
# Rounding is no reason to have sizes baked in: other batches and sizes than the traced ones have to run.
BATCHES = (1, 3)


@dataclass(frozen=True)
class Int8Report:
    """What a quantized denoiser was compared on, and how it came out.

    Attributes:
        runtime: what ran it, with version and device.
        mode: "static", "dynamic" or "weights".
        relative_mse: relative squared error of the prediction against the float program, over all `calls`.
        max_error: what `relative_mse` had to stay within.
        calls: denoiser calls that were compared; none of them was calibrated on.
        path: the exported file, if there is one.
    """

    runtime: str
    mode: str
    relative_mse: float
    max_error: float
    calls: int
    path: str = ""

    def words(self) -> list[str]:
        """Say how it came out, in lines."""
        return [
            f"{self.runtime}, int8 {self.mode}: relative squared error of the prediction {self.relative_mse:.1e} "
            f"(at most {self.max_error:.0e} allowed) on {self.calls} denoiser calls that were not calibrated on"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return asdict(self)


def measure_int8(
    program: Program,
    runner: Runner,
    held_out: Sequence[Sequence[Tensor]],
    *,
    runtime: str,
    mode: str,
    max_error: float = MAX_ERROR,
    path: str = "",
    sizes: bool = True,
) -> Int8Report:
    """Run the float program and the quantized one on the same inputs and compare.

    Args:
        program: the reference, float.
        runner: the quantized one; takes one tensor for each placeholder.
        held_out: inputs that sampling gives and that were not calibrated on, one tensor for each placeholder.
        runtime: what the runner is, for the report.
        mode: how it was quantized, for the report.
        max_error: largest relative squared error allowed.
        path: of the exported file, for the report.
        sizes: run it at other batches and sizes too, to see that none is baked in.

    Raises:
        ExportError: beyond `max_error`, of another shape, or not finite.
        UsageError: nothing to compare on.
    """
    if not held_out:
        raise UsageError("there is nothing to compare on; give the inputs of at least one denoiser call")
    lost = energy = 0.0
    for case in held_out:
        expected, actual = _both(program, runner, case, runtime)
        lost += float((actual - expected).square().sum())
        energy += float(expected.square().sum())
    relative = lost / max(energy, torch.finfo(torch.float32).tiny)
    if not relative <= max_error:  # also true of nan
        raise ExportError(
            f"{runtime}, int8 {mode}: the relative squared error of the prediction is {relative:.1e}, "
            f"at most {max_error:.0e} is allowed; calibrate on more samples at all timesteps, quantize weights alone, "
            "or allow more"
        )
    if sizes:
        for case in untraced_inputs(program, BATCHES):
            _both(program, runner, case, runtime)
    return Int8Report(runtime, mode, relative, max_error, len(held_out), path)


def _both(program: Program, runner: Runner, case: Sequence[Tensor], runtime: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        expected = call_flat(program, case).double()
    actual = runner(case).double()
    if actual.shape != expected.shape:
        raise ExportError(
            f"{runtime} returns {tuple(actual.shape)} where the program returns {tuple(expected.shape)}; a size is "
            "baked into the quantized graph"
        )
    if not bool(torch.isfinite(actual).all()):
        shapes = [tuple(tensor.shape) for tensor in case]
        raise ExportError(f"{runtime} gives values that aren't finite for inputs {shapes}; quantize weights alone")
    return expected, actual
