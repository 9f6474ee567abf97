"""Capture a model as a `Program`: export, raise, and show that nothing was lost."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from passes.capture.check_capture import check_capture
from passes.capture.raise_modules import raise_modules
from passes.capture.refuse_quantized import refuse_quantized
from passes.capture.resample_sizes import ResampleSizes
from passes.capture.ties import dynamic_axes, tie_inputs
from passes.capture.value_numbers import value_number
from passes.errors import CaptureError
from passes.program.guards import (
    Sizes,
    doubled,
    input_symbols,
    least_pictures,
    pictures,
    probes,
    ranges,
    remainders,
    resized,
    widen,
)
from passes.program.ownership import named_tensors
from passes.program.program import Program
from passes.program.size_limits import simplified
from passes.program.sizes import is_fixed
from passes.program.torch_private import tree_map, written_guards


def capture(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    root: str = "",
    timestep: str | None = "timestep",
) -> Program:
    """Capture a module as a raised graph.

    It is the module's own function: it gives the same bits on a small input, and at the example's sizes, as at every
    size where the export's assumptions are dropped, it is shown to apply the same operators to the same parameters.

    Args:
        module: what to capture; its parameters are shared, not copied.
        args: example positional inputs; 2 or more along every dynamic dimension.
        kwargs: example keyword inputs.
        dynamic_shapes: as `torch.export.export` takes it. `Dim.AUTO` and named `Dim`s both leave a dimension open.
        root: dotted prefix to strip from parameter names, where a wrapper holds the model.
        timestep: name of the input that holds the timestep, or None.

    Returns:
        The program, in evaluation mode.

    Raises:
        UsageError: the module is quantized already.
        CaptureError: a parameter isn't finite, the export fails, a dynamic dimension turns out to be fixed, or the
            graph differs from the module.
    """
    kwargs = dict(kwargs or {})
    refuse_quantized(module)
    _check_finite(module, root)
    training = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        exported, pair = _trace(module, args, kwargs, dynamic_shapes, root)
        graph_module = pair.raised
        program = Program(graph_module, args, kwargs, dynamic_shapes, timestep, _guards(pair, exported))
        check_capture(module, program, lambda: pair.same({}))
    finally:
        for name, part in module.named_modules():
            part.training = training[name]
    _check_dynamic(graph_module, args, kwargs, dynamic_shapes)
    return program


def _check_finite(module: nn.Module, root: str) -> None:
    for name, parameter in module.named_parameters():
        # A finite sum proves finite elements without a boolean copy of the parameter; only otherwise look at each.
        if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter).all():
            raise CaptureError(
                f"parameter {name.removeprefix(root + '.')!r} holds NaN or infinite values; load the weights again "
                "(a half-precision checkpoint may have overflowed)"
            )


def _trace(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any, root: str
) -> tuple[ExportedProgram, _Pair]:
    """Export and raise a module, up-sampling to sizes rather than by factors where the module does so as well."""
    for resample in (ResampleSizes(), None):
        with resample or nullcontext():
            exported = _export(module, args, kwargs, dynamic_shapes)
        tensors = named_tensors(module)
        raised = raise_modules(exported.module(check_guards=False), root, tensors, module.state_dict().keys())
        pair = _Pair(module, raised, args, kwargs)
        # Only what the module itself does at sizes that can't be halved evenly; otherwise its own graph is the limit.
        if resample is None or not resample.count:
            break
        pair.uneven = tuple(remainders(pictures(pair.inputs, pair.fakes), resample.factor))
        if all(map(pair.same, pair.uneven)):
            break
    return exported, pair


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> ExportedProgram:
    # Named dimensions would make export refuse what it can't prove; what it assumes comes back as guards instead.
    shapes = tree_map(lambda value: Dim.AUTO if isinstance(value, Dim) else value, dynamic_shapes)
    untie = tie_inputs(module, dynamic_shapes, (args, kwargs))
    try:
        with torch.no_grad():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # export raises whatever the model's own code and the tracer do
        raise CaptureError(
            f"torch.export could not trace {type(module).__name__}: {_first_line(error)}; run the model itself "
            "on these inputs to see whether they fit it"
        ) from error
    finally:
        untie()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


class _Pair:
    """A module and its raised graph, to be compared at other sizes than the example's."""

    def __init__(
        self, module: nn.Module, raised: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.module, self.raised, self.inputs = module, raised, (args, kwargs)
        values = iter([node.meta.get("val") for node in raised.graph.nodes if node.op == "placeholder"])
        self.fakes: tuple[Any, Any] = tree_map(lambda _: next(values), self.inputs)
        self._names = {id(tensor): name for name, tensor in named_tensors(module).items()}
        # Sizes that can't be halved evenly and at which both were shown to do the same.
        self.uneven: tuple[Sizes, ...] = ()

    def at(self, sizes: Mapping[str, int]) -> tuple[Any, Any]:
        """Give zero inputs; a size that isn't named is the example's."""
        changed: tuple[Any, Any] = resized(self.inputs, self.fakes, sizes)
        return changed

    def sizes(self) -> dict[str, int]:
        """Give the example's value of every dynamic size."""
        real = _by_name(self.module, *self.inputs)
        return {symbol: int(eval(place, {"L": real})) for place, symbol in self.symbols().items()}

    def symbols(self) -> dict[str, str]:
        return input_symbols(_by_name(self.module, *self.fakes))

    def by_name(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return _by_name(self.module, *self.at(sizes))

    def same(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether both are shown to do the same at these sizes."""
        probe = self.at(sizes)
        try:
            # the graph first: where it can't run, there is no need to look at the model
            found = value_number(self.raised, *probe, self._names)
            return found == value_number(self.module, *probe, self._names)
        except Exception:  # either one can't run at these sizes: then nothing is shown, and the guard stays
            return False


def _guards(pair: _Pair, exported: ExportedProgram) -> tuple[str, ...]:
    symbols, sizes = pair.symbols(), pair.sizes()
    constraints = {str(symbol): interval for symbol, interval in exported.range_constraints.items()}
    guards = [*written_guards(exported), *ranges(symbols, constraints)]
    upper = {
        symbol: int(interval.upper)
        for symbol, interval in constraints.items()
        if symbol in sizes and interval.upper < 2**20
    }
    kept = widen(guards, iter(pair.uneven), pair.same, pair.by_name, equalities=True)
    kept = widen(kept, doubled(sizes), pair.same, pair.by_name, equalities=True)
    candidates = (*probes(sizes, upper), *least_pictures(pictures(pair.inputs, pair.fakes), sizes))
    return simplified(widen(kept, iter(candidates), pair.same, pair.by_name, equalities=False))


def _check_dynamic(raised: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> None:
    """Refuse a capture that fixed a dimension that was asked to stay open."""
    if dynamic_shapes is None:
        return
    flat = [node for node in raised.graph.nodes if node.op == "placeholder"]
    wanted = dynamic_axes(dynamic_shapes, (args, kwargs))
    for node, axes in zip(flat, wanted, strict=True):
        value = node.meta.get("val")
        for axis in axes:
            if isinstance(value, Tensor) and is_fixed(value.shape[axis]):
                raise CaptureError(
                    f"dimension {axis} of input {node.name!r} came out fixed at {value.shape[axis]}: the model's code "
                    "depends on its value; capture at an example of another size, or leave it out of dynamic_shapes"
                )
