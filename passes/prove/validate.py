"""Translation validation: the slim program against the masked dense program, on inputs that it hasn't seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from passes.errors import ValidationError
from passes.plan.slim_plan import SlimPlan
from passes.program.fresh_inputs import Inputs, fresh_inputs
from passes.program.program import Program
from passes.program.torch_private import tree_leaves
from passes.prove.masking import mask

# Largest ||slim - masked|| / ||masked|| that rounding explains: both sum the same numbers, in another order. Half
# precision is as measured (toys of every family, at most 1e-3 in fp16) with room for depth; what it proves is weaker.
TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}


@dataclass(frozen=True)
class ValidationReport:
    """How far the slim program is from the masked dense one.

    Attributes:
        relative_error: the largest over the inputs of ||slim - masked|| / ||masked||, as L2 norms.
        tolerance: what it was held to.
        dtype: of the prediction, e.g. "float32".
        inputs: a line on each input: the shapes of its tensors.
        errors: the relative error of each input, in the same order.
    """

    relative_error: float
    tolerance: float
    dtype: str
    inputs: tuple[str, ...]
    errors: tuple[float, ...]


def validate(
    program: Program,
    plan: SlimPlan,
    slimmed: Program,
    inputs: Iterable[Inputs] | None = None,
    tolerance: float | None = None,
) -> ValidationReport:
    """Compare the slim program with the masked dense program.

    The two run in turn, on one input at a time and without gradients, so that memory stays at one forward's.

    Args:
        program: the dense program.
        plan: what was removed.
        slimmed: what `rewrite(program, plan)` gave.
        inputs: pairs (args, kwargs) as the program takes them; by default two small ones of other values, batches and
            sizes than those captured.
        tolerance: largest relative error; by default from the prediction's dtype (see `TOLERANCES`).

    Returns:
        The report.

    Raises:
        ValidationError: the two differ by more than the tolerance, or a prediction is not finite, or there is no input.
        PlanError: the plan is of another model.
    """
    masked = mask(program, plan)
    errors: list[float] = []
    described: list[str] = []
    dtype = torch.float32
    for args, kwargs in fresh_inputs(program) if inputs is None else inputs:
        where = describe_inputs(args, kwargs)
        with torch.no_grad():
            reference = masked(*args, **kwargs)
            errors.append(relative_error(slimmed(*args, **kwargs), reference, where))
        described.append(where)
        dtype = reference.dtype
    if not errors:
        raise ValidationError("nothing to validate on: pass at least one input, or none at all for the default ones")
    limit = TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance
    worst = max(errors)
    if worst > limit:
        raise ValidationError(
            f"the slim program differs from the masked dense one by {worst:.2e} on {described[errors.index(worst)]} "
            f"(at most {limit:.0e} is rounding in {dtype}); don't use it: find the site by slimming one at a time"
        )
    return ValidationReport(worst, limit, str(dtype).removeprefix("torch."), tuple(described), tuple(errors))


def relative_error(result: Tensor, reference: Tensor, where: str = "the input") -> float:
    """Measure ||result - reference|| / ||reference|| in float64.

    Args:
        result: any shape.
        reference: the same shape.
        where: what they were computed on, for the message.

    Raises:
        ValidationError: the shapes differ or a value is not finite.
    """
    if result.shape != reference.shape:
        raise ValidationError(f"the prediction is {tuple(result.shape)}, not {tuple(reference.shape)}, on {where}")
    for name, tensor in (("masked dense", reference), ("slim", result)):
        if not torch.isfinite(tensor).all():
            raise ValidationError(
                f"the {name} program's prediction is not finite on {where}; try another dtype (bfloat16 or float32)"
            )
    difference = torch.linalg.vector_norm((result.double() - reference.double()).flatten()).item()
    size = torch.linalg.vector_norm(reference.double().flatten()).item()
    return float(difference / size) if size else float(difference)


def describe_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """List the tensors' shapes, e.g. "[3, 4, 8, 16], [], [3, 20, 12]"."""
    leaves = tree_leaves((args, dict(kwargs)))
    return ", ".join(str(list(leaf.shape)) for leaf in leaves if isinstance(leaf, Tensor))
