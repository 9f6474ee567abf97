"""The captured denoiser, as every pass takes and returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from passes.program.guards import check_inputs
from passes.program.module_tree import copy_graph_module


@dataclass(frozen=True)
class Program:
    """A denoiser as a raised FX graph.

    Attributes:
        graph_module: the graph. Linears, convolutions and norms are `call_module` nodes of real modules under the
            model's own dotted names; everything else is an ATen call. Its state dict has the model's own keys. Every
            tensor node has `meta["val"]`, a fake tensor whose dynamic dimensions are symbolic.
        args: example positional inputs, the ones that were traced.
        kwargs: example keyword inputs.
        dynamic_shapes: as `torch.export` takes it, for lowering.
        timestep: name of the placeholder that holds the timestep ([] or [B]), or None.
        guards: which sizes the graph holds for, as expressions over the inputs (see `passes.program.guards`).
        validated: digest of the weights that were validated (see `passes.program.ownership`); None where none were.
        facts: what analyses found out about this graph and keep with it, by a name of their own. A copy has none.
    """

    graph_module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None
    timestep: str | None = "timestep"
    guards: tuple[str, ...] = ()
    validated: str | None = None
    facts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        parameters = list(self.graph_module.parameters())
        dtypes = ", ".join(sorted({str(each.dtype).removeprefix("torch.") for each in parameters})) or "no dtype"
        count = sum(each.numel() for each in parameters)
        proved = ", validated" if self.validated is not None else ""
        return f"Program({len(self.graph.nodes)} nodes, {count:,} parameters in {dtypes}{proved})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the graph on inputs of the same structure as the traced ones; returns the prediction.

        Raises:
            UsageError: a size that the graph does not hold for.
        """
        check_inputs(self.graph_module, self.guards, args, kwargs)
        result: Tensor = self.graph_module(*args, **kwargs)
        return result

    @property
    def graph(self) -> fx.Graph:
        """The graph itself."""
        return self.graph_module.graph

    def module(self, path: str) -> nn.Module:
        """Look a submodule up by its dotted path."""
        return self.graph_module.get_submodule(path)

    def copy(self) -> Program:
        """Copy the graph and the module tree, to be changed; parameters and buffers are shared, not copied."""
        return replace(self, graph_module=copy_graph_module(self.graph_module), validated=None)
