"""From measured latencies to the table of costs that a planner takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from diffusers import ModelMixin

from passes.plan.costs import CostTable
from passes.plan.policies import Keep
from passes.program.inputs import example_tensors
from passes.program.program import Program
from passes.rewrite.site_program import signature, site_program
from passes.sites.kinds import kind_names
from passes.sites.site import Site
from passes.solve.error_curves import Size, narrows
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.cache import LatencyCache, cache_folder, digest, environment
from slimdiff_fx.latency.measure import gain, shares, site_ratios
from slimdiff_fx.latency.shaped_plan import shaped_plan
from slimdiff_fx.latency.sizes import nearest_half, sizes_timed, step_of
from slimdiff_fx.latency.target import Target, make_target
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.timing.bench import Bench, Effort, opened
from slimdiff_fx.timing.runtimes import Forward, require


@dataclass(frozen=True)
class Curve:
    """What a site costs by its channels: linear between measured points, in steps.

    Attributes:
        channels: ascending, the whole site's last.
        costs: whole numbers, at those.
        step: sizes between two multiples of this cost what the upper one does.
    """

    channels: tuple[int, ...]
    costs: tuple[int, ...]
    step: int = 1

    def __call__(self, channels: int) -> int:
        """Give the cost; below the smallest measured size that of the smallest."""
        if channels not in self.channels:
            channels = min(-(-channels // self.step) * self.step, self.channels[-1])
        at = bisect_left(self.channels, channels)
        if self.channels[at] == channels or at == 0:
            return self.costs[at]
        low, high = self.channels[at - 1], self.channels[at]
        return round(self.costs[at - 1] + (self.costs[at] - self.costs[at - 1]) * (channels - low) / (high - low))


def measured_costs(
    policy: KeepLatency,
    program: Program,
    sites: Sequence[Site],
    *,
    narrow: bool,
    model: ModelMixin | None = None,
    effort: Effort | None = None,
    listener: Listener = SILENT,
) -> Keep:
    """Measure what a budget of latency counts, or find it measured before.

    Args:
        policy: the budget.
        program: the dense program, with dynamic sizes.
        sites: all its sites.
        narrow: the plan will make heads narrower; otherwise it removes whole heads.
        model: the eager model, for runtimes that run it; None to time the graph in its place.
        effort: how long things are timed.
        listener: told how many sizes there are to time, and as each is done.

    Returns:
        the policy for `passes.analyze.methods.analyze`.

    Raises:
        UsageError: the sizes can't be timed.
        ExportError: the runtime lacks something, or fails.
        CheckpointError: the cache can't be read or written.
    """
    require(policy.backend)
    target = make_target(program, model, policy.sizes)
    cache = LatencyCache(cache_folder(policy.cache), environment(policy.backend, policy.used_threads, program))
    with opened(policy.backend, policy.used_threads, effort) as bench:
        return _Measuring(policy, target, bench, cache, narrow, listener).result(sites)


@dataclass
class _Measuring:
    policy: KeepLatency
    target: Target
    bench: Bench
    cache: LatencyCache
    narrow: bool
    listener: Listener

    def result(self, sites: Sequence[Site]) -> Keep:
        keys = {site.name: self._key(site) for site in sites}
        distinct = {keys[site.name]: site for site in sites}
        wanted = {key: sizes_timed(site, self.narrow, self.policy.align) for key, site in distinct.items()}
        steps = sum(map(len, wanted.values())) + len(distinct) + len(kind_names())
        with self.listener.steps("time", steps, 0, "sizes"):
            ratios = {key: self._ratios(key, site, wanted[key]) for key, site in distinct.items()}
            dense, parts = self._shares(distinct)
            gains = {kind: self._gain(kind, sites, keys, ratios, parts) for kind in kind_names()}
        total = round(dense * 1e9)
        curves = {}
        for site in sites:
            points = sorted(ratios[keys[site.name]].items())
            whole, factor = parts[keys[site.name]] * total, gains[site.kind]
            costs = tuple(round(whole * (1 - factor * (1 - ratio))) for _, ratio in points)
            curves[site.name] = Curve(tuple(channels for channels, _ in points), costs, step_of(site))
        record = {
            "unit": "ns",
            "backend": self.policy.backend,
            "threads": self.bench.threads,
            "clock": self.bench.clock,
            "inputs": [list(value.shape) for value in example_tensors(self.target.fixed)],
            "gains": {kind: round(value, 4) for kind, value in gains.items()},
        }
        table = CostTable("latency", f"latency on {self.policy.backend}", total, curves, record)
        return Keep(self.policy.fraction, table, self.policy.normalize, self.policy.align, self.policy.uniform)

    def _key(self, site: Site) -> str:
        dense = site_program(self.target.fixed, site, self.target.places[site], site.units)
        return digest(f"{site.kind} {site.units} {site.unit_width}\n{signature(dense)}")

    @cached_property
    def _whole(self) -> str:
        runs = "graph" if self.target.model is None else type(self.target.model).__name__
        return digest(f"{runs}\n{signature(self.target.fixed)}")

    def _ratios(self, key: str, site: Site, sizes: Sequence[tuple[int, int]]) -> dict[int, float]:
        """Give the site's times at these sizes, as shares of the dense one's; what is new is measured and kept."""
        # Fewer heads and narrower heads of as many channels cost differently: attention has a softmax for each head.
        place = f"site {key} {'narrow' if self.narrow and narrows(site) else 'remove'}"
        known = self.cache.get(place) or {"site": _describe(site), "ratios": {}}
        ratios = {int(channels): float(ratio) for channels, ratio in known["ratios"].items()}
        missing = [size for size in sizes if size[0] * size[1] not in {site.width, *ratios}]
        for channels, ratio in site_ratios(self.target, site, missing, self.bench) if missing else ():
            ratios[channels] = ratio
            self.cache.put(place, {**known, "ratios": dict(sorted(ratios.items()))})
            self.listener.advance(1)
        self.listener.advance(len(sizes) - len(missing))
        return {**ratios, site.width: 1.0}

    @cached_property
    def _dense(self) -> Forward:
        return self.bench.ready(self.target.whole("dense"))

    def _shares(self, distinct: Mapping[str, Site]) -> tuple[float, dict[str, float]]:
        known = self.cache.get(f"whole {self._whole}")
        if known is None:
            seconds, parts = shares(self.target, self._dense, distinct, self.bench)
            known = {"inputs": [list(value.shape) for value in example_tensors(self.target.fixed)], "seconds": seconds}
            known["shares"] = parts
            self.cache.put(f"whole {self._whole}", known)
        self.listener.advance(len(distinct))
        return float(known["seconds"]), {key: float(known["shares"][key]) for key in distinct}

    def _gain(
        self,
        kind: str,
        sites: Sequence[Site],
        keys: Mapping[str, str],
        ratios: Mapping[str, Mapping[int, float]],
        parts: Mapping[str, float],
    ) -> float:
        place = f"gain {self._whole} {kind} {'narrow' if self.narrow else 'remove'} {self.policy.align}"
        known = self.cache.get(place)
        if known is None:
            halves = {site.name: self._half_of(site, kind) for site in sites}
            half = shaped_plan(self.target.program, sites, halves)
            expected = 0.0
            for site in sites:
                if site.kind == kind:
                    units, width = halves[site.name]
                    expected += parts[keys[site.name]] * (1 - ratios[keys[site.name]][units * width])
            together = sum(parts[keys[site.name]] for site in sites if site.kind == kind)
            known = gain(self.target, self._dense, half, expected, 1 / max(together, 1e-9), self.bench)
            self.cache.put(place, known)
        self.listener.advance(1)
        return float(known)

    def _half_of(self, site: Site, kind: str) -> Size:
        """Give about half of a site of the kind, the whole of another."""
        if site.kind != kind:
            return site.units, site.unit_width
        return nearest_half(site, self.narrow, self.policy.align)


def _describe(site: Site) -> str:
    return f"{site.kind}, {site.units} units of {site.unit_width}"
