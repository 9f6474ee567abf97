"""Measure how far a runtime's result is from the program's, on inputs that no trace has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from passes.errors import ExportError, UsageError
from passes.program.inputs import call_flat, input_nodes, symbol_roles
from passes.program.ownership import is_as_validated
from passes.program.program import Program
from passes.program.sized_inputs import Call, first_accepted, like_kind, sized_inputs
from passes.program.torch_private import tree_flatten

Runner = Callable[[Sequence[Tensor]], Tensor]
BATCHES = (1, 3, 65)
# Height and width in steps, case after case: landscape, portrait, and for the large batch a small square.
SHAPES = ((1, 2), (2, 1), (1, 1))
# Down-sampling wants multiples of some power of two; the least that the program's guards accept is the cheapest.
STEPS = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class ParityCase:
    """One comparison.

    Attributes:
        shapes: of every input, by name.
        timesteps: the first few timesteps that went in.
        absolute: largest |runtime - program|.
        relative: the same over the largest |program|, so that no scale of the prediction flatters it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    timesteps: tuple[float, ...]
    absolute: float
    relative: float


@dataclass(frozen=True)
class ParityReport:
    """What an export was compared on, and how it came out.

    Attributes:
        runtime: what ran the exported file, with version and device.
        dtype: of the exported weights.
        tolerance: what `relative` had to stay within.
        cases: every comparison.
        path: the exported file.
        sizes: which sizes the file takes, as `slimdiff_fx.export.input_sizes` says it.
        as_validated: whether the program's weights are those that were validated when it was slimmed. False where they
            were changed since: then the file equals the program as it is now; None where nothing was slimmed here.
    """

    runtime: str
    dtype: str
    tolerance: float
    cases: tuple[ParityCase, ...]
    path: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    as_validated: bool | None = None

    def words(self) -> list[str]:
        """Say how it came out, in lines."""
        return [
            f"{self.runtime} equals torch to {self.relative:.1e} (at most {self.tolerance:.0e} allowed) "
            f"on {len(self.cases)} inputs that were not traced"
        ]

    @property
    def relative(self) -> float:
        """The worst case's relative difference."""
        return max(case.relative for case in self.cases)

    @property
    def absolute(self) -> float:
        """The worst case's absolute difference."""
        return max(case.absolute for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return {**asdict(self), "relative": self.relative, "absolute": self.absolute}


def untraced_inputs(program: Program, batches: Sequence[int] = BATCHES, seed: int = 0) -> list[list[Tensor]]:
    """Make inputs of other batches, sizes, token counts, timesteps and values than the traced ones.

    Dimensions that the program holds fixed stay as they are.

    Args:
        program: its placeholders' symbolic shapes say which dimensions are free, its guards which sizes it takes.
        batches: one case for each.
        seed: of the values.

    Returns:
        for each case, one tensor for each placeholder, in order.

    Raises:
        ExportError: the program refuses every size tried.
    """
    return [_untraced_input(program, index, batch, seed + index) for index, batch in enumerate(batches)]


def random_inputs(program: Program, cases: int, seed: int = 0) -> list[list[Tensor]]:
    """Make inputs of the traced sizes, but of other values and timesteps.

    Returns:
        for each case, one tensor for each placeholder, in order.
    """
    traced = {symbol: hint for symbol, (_, hint) in symbol_roles(program).items()}
    return [_flat(sized_inputs(program, traced, like_kind(seed + case))) for case in range(cases)]


def _untraced_input(program: Program, index: int, batch: int, seed: int) -> list[Tensor]:
    proposals = _assignments(symbol_roles(program), index, batch)
    try:
        return _flat(first_accepted(program, proposals, partial(like_kind, seed)))
    except UsageError as error:
        raise ExportError(
            f"no other size to compare at was found ({error}); pass `inputs` that the program takes"
        ) from error


def _flat(inputs: Call) -> list[Tensor]:
    tensors: list[Tensor] = tree_flatten(inputs)[0]
    return tensors


def _assignments(roles: Mapping[Any, tuple[str, int]], index: int, batch: int) -> Iterator[dict[Any, int]]:
    """Propose sizes by symbol: the least not traced, then multiples of the traced, then the traced picture."""
    # Pictures inside the network are smaller than its input: they keep their share of it, rounded up as halving does.
    hints = {role: max(hint for other, hint in roles.values() if other == role) for role, _ in roles.values()}
    traced = (hints.get("height"), hints.get("width"))
    tall, wide = SHAPES[index % len(SHAPES)]
    # An upright case has a height and width that halving rounds: models that accept such sizes are compared on one.
    pictures = [(STEPS[0] * tall - 1, STEPS[0] * wide - 1)] if tall > wide else []
    for step in STEPS:
        picture = (step * tall, step * wide)
        pictures.append((picture[0] + step * tall, picture[1] + step * wide) if picture == traced else picture)
    pictures.append(((traced[0] or 1) * tall, (traced[1] or 1) * wide))
    for height, width in pictures:
        values = {"batch": batch, "height": height, "width": width, "size": max(height, width)}
        yield {
            symbol: -(-values[role] * hint // hints[role]) if role in values else hint + 1 + 3 * index
            for symbol, (role, hint) in roles.items()
        }
    yield {symbol: batch if role == "batch" else hint for symbol, (role, hint) in roles.items()}


def measure_parity(
    program: Program,
    runner: Runner,
    cases: Sequence[Sequence[Tensor]],
    *,
    runtime: str,
    tolerance: float,
    dtype: torch.dtype,
    path: str = "",
    sizes: Mapping[str, Any] | None = None,
) -> ParityReport:
    """Run the program and the runtime on the same inputs and compare.

    Args:
        program: the reference; runs in its own dtype.
        runner: takes one tensor for each placeholder; returns the prediction. Casts what it needs itself.
        cases: inputs, as `untraced_inputs` makes them.
        runtime: what the runner is, for the report.
        tolerance: largest relative difference allowed.
        dtype: of the exported weights, for the report.
        path: of the exported file, for the report.
        sizes: which the file takes, for the report.

    Raises:
        ExportError: a case is out of tolerance, of another shape, or not finite.
    """
    names = [node.name for node in input_nodes(program)]
    done = []
    for case in cases:
        shapes = {name: tuple(tensor.shape) for name, tensor in zip(names, case, strict=True)}
        with torch.no_grad():
            expected = call_flat(program, case).double()
        actual = runner(case).double()
        if actual.shape != expected.shape:
            raise ExportError(
                f"{runtime} returns {tuple(actual.shape)} where the program returns {tuple(expected.shape)} "
                f"for inputs {shapes}; a size is baked into the export: report it with the model's config"
            )
        absolute = (actual - expected).abs().max().item()
        relative = absolute / max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)
        times = case[names.index(program.timestep)] if program.timestep in names else torch.zeros(0)
        done.append(ParityCase(shapes, tuple(times.flatten()[:4].tolist()), absolute, relative))
        if not relative <= tolerance:  # also true of nan
            hint = "it overflows this dtype: export in float32" if absolute != absolute else "export in float32"
            raise ExportError(
                f"{runtime} differs from the program by {relative:.2e} (tolerance {tolerance:.0e}, "
                f"{str(dtype).removeprefix('torch.')}) for inputs {shapes}; {hint}, or raise the tolerance if that is "
                "good enough for you"
            )
    weights = is_as_validated(program)
    name = str(dtype).removeprefix("torch.")
    return ParityReport(runtime, name, tolerance, tuple(done), path, sizes or {}, weights)


def input_names(program: Program) -> list[str]:
    """Name the inputs as exported files name them: by the pipeline's own words, without the dictionary they are in."""
    return [node.name.removeprefix("added_cond_kwargs_") for node in input_nodes(program)]
