"""Run an instrumented program over a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from passes.arguments import check_kind
from passes.calibrate.instrument import Instrumented
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, UsageError

Batch = tuple[tuple[Any, ...], Mapping[str, Any]]


def calibrate(
    instrumented: Instrumented, batches: Iterable[Batch], *, after_batch: Callable[[int], None] | None = None
) -> Statistics:
    """Run every batch forward, without gradients, and return what the observers add up to.

    Statistics are sums: how samples are split into batches, and in which order they come, changes them by rounding
    alone. An interrupted run loses at most the batch that ran: take `instrumented.statistics()`, later `load` it and
    go on behind the first `Statistics.calls` batches, to the same bits.

    Examples:
        >>> prepared = slimdiff_fx.prepare(program)
        >>> slimdiff_fx.calibrate(prepared, batches)
        Statistics(3 sites, 4 rows in 2 calls, with second moments)

    Args:
        instrumented: what to run; what it measured before (or was loaded with) counts too.
        batches: positional and keyword inputs of each forward, as the program takes them.
        after_batch: called after each batch with the number of batches run here, for progress and checkpoints.

    Raises:
        UsageError: something else than an instrumented program, or than pairs of inputs.
        CalibrationError: no batches at all, or an activation that is not finite (names the site).
    """
    check_kind("instrumented", instrumented, Instrumented, "what slimdiff_fx.prepare(program) gives")
    done = 0
    with torch.no_grad():
        for done, batch in enumerate(batches, start=1):
            args, kwargs = _batch(batch, done)
            instrumented.ledger.odd = done % 2 == 1
            instrumented(*args, **kwargs)
            if after_batch is not None:
                after_batch(done)
    statistics = instrumented.statistics()
    if not statistics.calls:
        raise CalibrationError("calibration got no batches: give at least one prompt or picture")
    return statistics


def _batch(batch: Any, number: int) -> Batch:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        args, kwargs = batch
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return tuple(args), kwargs
    raise UsageError(f"batch {number} of `batches` is no pair (args, kwargs); give ((sample, timestep, ...), {{}})")
