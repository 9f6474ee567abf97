"""Which sizes a lowered program holds for: those that its program does, as far as both are shown to be the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.export import ExportedProgram

from passes.capture.value_numbers import value_number
from passes.program.guards import (
    Sizes,
    doubled,
    input_names,
    input_symbols,
    least_pictures,
    pictures,
    probes,
    resized,
    widen,
)
from passes.program.program import Program
from passes.program.size_limits import simplified
from passes.program.torch_private import tree_map, written_guards


def shown_guards(program: Program, exported: ExportedProgram) -> tuple[str, ...]:
    """Give the guards of a lowered program: the tracer's, without those that exclude sizes needlessly.

    The tracer guards layouts too, and so refuses pictures of one column. Guards of the program that the tracer had no
    reason to find are added: what the program refuses, the file does.

    Args:
        program: what was lowered; its sizes are checked when it is called.
        exported: the outcome.

    Returns:
        Guards, as `passes.program.guards` takes them.
    """
    lowered = exported.module(check_guards=False)
    nodes = iter([node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"])
    inputs = (tuple(program.args), dict(program.kwargs))
    fakes = tree_map(lambda _: next(nodes), inputs)
    names = input_names(program.graph_module)

    def by_name(pair: Any) -> dict[str, Any]:
        return dict(zip(names, pair[0], strict=False)) | dict(pair[1])

    def inputs_at(sizes: Mapping[str, int]) -> dict[str, Any]:
        return by_name(resized(inputs, fakes, sizes))

    def same(sizes: Sizes) -> bool:
        args, kwargs = resized(inputs, fakes, sizes)
        try:
            return value_number(program.graph_module, args, kwargs, {}) == value_number(lowered, args, kwargs, {})
        except Exception:  # one of the two can't run at these sizes: nothing is shown, and the guard stays
            return False

    real = by_name(inputs)
    sizes = {symbol: int(eval(place, {"L": real})) for place, symbol in input_symbols(by_name(fakes)).items()}
    candidates = (*doubled(sizes), *probes(sizes, {}), *least_pictures(pictures(inputs, fakes), sizes))
    kept = widen(written_guards(exported), iter(candidates), same, inputs_at, equalities=False)
    return simplified((*kept, *program.guards))
