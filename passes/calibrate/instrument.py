"""Put observers into a program: nodes that measure and change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from passes.calibrate.ledger import Ledger, uninterrupted
from passes.calibrate.moment_sums import Storage
from passes.calibrate.moments import moment_shapes
from passes.calibrate.observers import ObserverFactory, UnitObserver, Weighing
from passes.calibrate.probes import PROBES, Probes
from passes.calibrate.statistics import Statistics, check_same_kind
from passes.errors import UsageError
from passes.plan.fingerprint import fingerprint
from passes.program.operators import argument
from passes.program.program import Program
from passes.program.torch_private import FakeTensor
from passes.sites.find import locate_in_copy
from passes.sites.kinds import kinds
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes

BUCKETS = 10
TIMESTEPS = 1000.0
PREFIX = "slimdiff_observers"


@dataclass(frozen=True)
class Instrumented:
    """A program that measures itself while it runs. Made by `instrument`.

    Attributes:
        program: the program with observer nodes; its predictions equal the dense program's bit for bit.
        dense: the program it was made from.
        sites: the sites that are watched.
        ledger: where the observers add up.
        timesteps: the timesteps covered by the buckets, [0, timesteps).
        fingerprint: of the dense program.
        probes: where a few inputs are kept.
    """

    program: Program
    dense: Program
    sites: tuple[Site, ...]
    ledger: Ledger
    timesteps: float
    fingerprint: Mapping[str, Any]
    probes: Probes

    def __repr__(self) -> str:
        return f"Instrumented({len(self.sites)} sites of {self.dense!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the program on inputs of the same structure as the traced ones; returns the prediction.

        Raises:
            CalibrationError: an activation was not finite; the message names the site.
        """
        prediction = self.program(*args, **kwargs)
        self.probes.offer(args, kwargs, prediction)
        return prediction

    def statistics(self, *, copy: bool = True) -> Statistics:
        """Give what all finished forwards since the last `reset` or `load` add up to. Valid at any moment.

        Args:
            copy: second moments are copied. Otherwise they are shared, and only hold until the next forward: for those
                that would not fit into memory twice.
        """
        sites, samples, calls = self.ledger.read()
        with uninterrupted():
            self.ledger.moments.settle()
        moments, halves = (_read(each, copy=copy) for each in (self.ledger.moments.sums, self.ledger.moments.halves))
        weights = self.ledger.weights if moments else ()
        probes = self.probes.read()
        return Statistics(sites, samples, calls, self.timesteps, self.fingerprint, moments, probes, weights, halves)

    def reset(self) -> None:
        """Forget everything measured."""
        self.ledger.clear()
        self.probes.clear()

    def load(self, statistics: Statistics, calls: Sequence[int] | None = None) -> None:
        """Continue from `statistics`: further forwards add to them, to the bits an uninterrupted run would have.

        Args:
            statistics: what `statistics` gave.
            calls: which calls of the calibration they are of, if it is shared and they aren't its first ones.

        Raises:
            CalibrationError: they are of another model, other sites, other observers or other buckets.
        """
        check_same_kind(self.statistics(copy=False), statistics)
        self.ledger.write(statistics.sites, statistics.samples, statistics.calls)
        self.ledger.moments.write(statistics.moments, statistics.halves)
        self.probes.write(statistics.probes, range(statistics.calls) if calls is None else calls)


def instrument(
    program: Program,
    sites: Sequence[Site],
    observers: Mapping[str, ObserverFactory] | None = None,
    *,
    buckets: int = BUCKETS,
    timesteps: float = TIMESTEPS,
    attention_weights: bool = False,
    moments: bool = False,
    weights: Sequence[float] | None = None,
    storage: Storage | None = None,
) -> Instrumented:
    """Add an observer node to each site of a copy of the program.

    Observers only read: their nodes have no users, so no other node computes anything else than before.

    Args:
        program: what to watch. It stays as it is; the copy shares its parameters.
        sites: where to watch.
        observers: by kind, what makes the observer of a site; the others get the default ones.
        buckets: equal timestep buckets to keep apart. A program without timestep has one.
        timesteps: the scheduler's range, [0, timesteps).
        attention_weights: measure the entropy and the confidence of attention's weights too, which two criteria need.
        moments: take second moments too, over a few tokens of each sample, and keep a few inputs as probes. Memory is
            that of `passes.calibrate.moments.moment_bytes`.
        weights: how much a token counts in the moments, one number for each bucket; None weighs all alike.
        storage: where the moments live, see `passes.calibrate.moment_sums`; in memory if None.

    Raises:
        UsageError: no sites, no buckets, an empty range, or weights that are negative, all zero or of another number.
    """
    if not sites:
        raise UsageError("there is no site to watch: see `slimdiff-fx inspect` for what was found and why not")
    if buckets < 1 or not timesteps > 0:
        raise UsageError(f"{buckets} buckets over {timesteps:g} timesteps: both must be positive")
    watched = program.copy()
    located = locate_in_copy(program, watched, sites)
    factories: dict[str, ObserverFactory] = {kind.name: kind.observer for kind in kinds()}
    factories.update(observers or {})
    made = [
        factories[site.kind](site, _weighing(nodes) if attention_weights else None)
        for site, nodes in zip(sites, located, strict=True)
    ]
    buckets = buckets if program.timestep is not None else 1
    layout = {observer.site.name: (observer.site.units, observer.statistics) for observer in made}
    if weights is not None and (len(weights) != buckets or min(weights) < 0 or not sum(weights) > 0):
        raise UsageError(f"timestep weights {list(weights)}: give {buckets} that are not negative and not all zero")
    shapes = {site.name: moment_shapes(site) for site in sites} if moments else {}
    ledger = Ledger(layout, buckets, shapes, weights, storage)
    _insert_opening(watched, ledger, timesteps)
    for index, (observer, nodes) in enumerate(zip(made, located, strict=True)):
        observer.ledger = ledger
        _insert_observer(watched, f"{PREFIX}.site_{index}", observer, nodes)
    _insert_closing(watched, ledger)
    watched.graph.lint()
    watched.graph_module.recompile()
    probes = Probes(PROBES if moments else 0)
    own = fingerprint(program, tuple(sites))
    return Instrumented(watched, program, tuple(sites), ledger, float(timesteps), own, probes)


def _read(sums: Mapping[str, Mapping[str, Tensor]], *, copy: bool) -> dict[str, dict[str, Tensor]]:
    return {
        site: {name: values.cpu().clone() if copy else values.cpu() for name, values in each.items()}
        for site, each in sums.items()
    }


def _insert_opening(program: Program, ledger: Ledger, timesteps: float) -> None:
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    arguments: tuple[fx.Node, ...] = ()
    if program.timestep is not None:
        named = [node for node in placeholders if program.timestep in (node.name, node.target)]
        if not named:
            names = ", ".join(node.name for node in placeholders)
            raise UsageError(f"the program has no input {program.timestep!r} for the timestep, only {names}")
        arguments = (named[0],)
    program.graph_module.add_submodule(f"{PREFIX}.opening", Opening(ledger, timesteps))
    with program.graph.inserting_after(placeholders[-1]):
        program.graph.call_module(f"{PREFIX}.opening", arguments)


def _insert_observer(program: Program, path: str, observer: UnitObserver, nodes: SiteNodes) -> None:
    inputs: list[fx.Node | None] = [nodes.activation]
    if nodes.query is not None and nodes.key is not None:
        inputs += [nodes.query, nodes.key]
        if observer.weighing is not None:
            inputs.append(argument(nodes.activation, "attn_mask"))
    program.graph_module.add_submodule(path, observer)
    # Right behind the activation, so that no tensor lives longer than it did.
    with program.graph.inserting_after(nodes.activation):
        program.graph.call_module(path, tuple(inputs))


def _insert_closing(program: Program, ledger: Ledger) -> None:
    output = next(node for node in program.graph.nodes if node.op == "output")
    program.graph_module.add_submodule(f"{PREFIX}.closing", Closing(ledger))
    with program.graph.inserting_before(output):
        program.graph.call_module(f"{PREFIX}.closing", (output.all_input_nodes[0],))


def _weighing(nodes: SiteNodes) -> Weighing | None:
    """Read how SDPA weighs its keys; None where the attention is no SDPA call that can be recomputed."""
    node = nodes.activation
    if node.target != torch.ops.aten.scaled_dot_product_attention.default or nodes.query is None or nodes.key is None:
        return None
    scale, causal = argument(node, "scale"), argument(node, "is_causal")
    if isinstance(scale, fx.Node) or isinstance(causal, fx.Node):
        return None
    return Weighing(scale, bool(causal))


class Opening(nn.Module):
    """First node of an instrumented program: begin a forward in the timesteps' buckets.

    Args:
        ledger: where the observers record.
        timesteps: the range, [0, timesteps); what lies outside counts to the nearest bucket.
    """

    # Nothing uses the result: without this mark, dead-code elimination would remove the node.
    _is_impure = True

    def __init__(self, ledger: Ledger, timesteps: float) -> None:
        super().__init__()
        self.ledger = ledger
        self.timesteps = timesteps

    def forward(self, timestep: Any = None) -> None:
        """Begin; `timestep` is a number, [] or [B], or None where the program has none."""
        if isinstance(timestep, FakeTensor):
            return
        given = [0.0] if timestep is None else torch.as_tensor(timestep).detach().double().flatten().tolist()
        last = self.ledger.buckets - 1
        self.ledger.begin([int(min(max(step * (last + 1) / self.timesteps, 0), last)) for step in given], given)


class Closing(nn.Module):
    """Last node of an instrumented program: take what the forward's observers recorded into the sums.

    Args:
        ledger: where the observers record.
    """

    _is_impure = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def forward(self, prediction: Tensor) -> None:
        """Commit, unless `prediction` is a fake tensor: shape propagation measures nothing.

        Raises:
            CalibrationError: an activation was not finite.
        """
        if not isinstance(prediction, FakeTensor):
            with torch.no_grad():
                self.ledger.commit()
