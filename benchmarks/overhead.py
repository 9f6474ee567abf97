"""What does watching cost? Instrumented forwards against plain ones, in turn, in one process.

All samples are at one timestep, as in a pipeline's step: sums go to one row, and the same tokens are sampled of all.

Part of `python -m benchmarks.cost`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_map

from benchmarks.measure import Timing, interleave, machine, paired_ratio
from passes.calibrate.instrument import Instrumented, instrument
from passes.program.inputs import example_tensors, input_nodes
from passes.program.program import Program
from passes.sites.find import find_sites

# Sampled tokens wait until a batch of samples has gone through all its steps: so many forwards share one sum.
FORWARDS = 25
# What is watched; "moments" is the light statistics and second moments.
WATCHED: Mapping[str, dict[str, bool]] = {
    "light": {},
    "attention_weights": {"attention_weights": True},
    "moments": {"moments": True},
}


def measure_overhead(
    program: Program,
    *,
    watched: tuple[str, ...] = tuple(WATCHED),
    repeats: int = 20,
    warmup: int = 3,
    min_seconds: float = 5.0,
) -> dict[str, Any]:
    """Time forwards with observers against one without, on the program's own example inputs.

    Processor time is what counts: on one thread it is what a quiet machine would take, and others' work doesn't enter.

    Args:
        program: the dense program.
        watched: which of `WATCHED`.
        repeats: rounds at least.
        warmup: rounds that aren't counted.
        min_seconds: time at least to spend on each.

    Returns:
        the result as JSON values. By what is watched, "overhead" is the median of the rounds' own ratios, less one; for
        second moments it includes a share of adding the sampled tokens up ("of_it_sums").

    Raises:
        SlimDiffError: the program has no sites.
    """
    record = machine()
    program = _at_one_timestep(program)
    sites = find_sites(program)
    instrumented = {name: instrument(program, sites, **WATCHED[name]) for name in watched}
    forwards: dict[str, Callable[[], None]] = {"plain": lambda: _forward(program, program)}
    for name, one in instrumented.items():
        forwards[name] = lambda one=one: _forward(one, program)  # type: ignore[misc]
    timings = interleave(forwards, repeats=repeats, warmup=warmup, min_seconds=min_seconds, clock=time.process_time)
    plain = timings["plain"]
    found = {name: _overhead(timings[name], plain, instrumented[name]) for name in watched}
    return {
        "sites": len(sites),
        "batch": int(program.args[0].shape[0]),
        "machine": record,
        "plain": plain.to_dict(),
        "watched": found,
    }


def _at_one_timestep(program: Program) -> Program:
    pairs = zip(input_nodes(program), example_tensors(program), strict=True)
    steps = [tensor for node, tensor in pairs if node.target == program.timestep]
    args, kwargs = tree_map(
        lambda value: value[:1].expand(len(value)).clone() if any(value is step for step in steps) else value,
        (program.args, dict(program.kwargs)),
    )
    return replace(program, args=args, kwargs=kwargs)


def _forward(call: Callable[..., Any], program: Program) -> None:
    with torch.no_grad():
        call(*program.args, **program.kwargs)


def _overhead(timing: Timing, plain: Timing, instrumented: Instrumented) -> dict[str, Any]:
    sums = _seconds_of_sums(instrumented) / FORWARDS / plain.median
    return {
        **timing.to_dict(),
        "overhead": round(paired_ratio(timing, plain) - 1 + sums, 4),
        "overhead_of_fastest": round(min(timing.seconds) / min(plain.seconds) - 1 + sums, 4),
        "of_it_sums": round(sums, 4),
    }


def _seconds_of_sums(instrumented: Instrumented) -> float:
    """Time the adding up of the tokens of `FORWARDS` forwards: those of one, so many times."""
    moments = instrumented.ledger.moments
    if not moments.sums:
        return 0.0
    moments.settle()
    _forward(instrumented, instrumented.dense)
    for waiting in moments._waiting.values():
        waiting *= FORWARDS
    start = time.process_time()
    moments.settle()
    return time.process_time() - start
