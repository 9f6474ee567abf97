"""A kind of site that is in this file alone: hidden channels of two 1×1 convolutions. Every stage takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console
from torch import Tensor, fx, nn

import slimdiff_fx
from passes.calibrate.moments import Covariance, Sums
from passes.calibrate.observers import NeuronObserver
from passes.capture.capture import capture
from passes.errors import PlanError, UsageError
from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.prove.masking import mask
from passes.prove.verify import verify
from passes.sites.find import find_sites, find_unsupported
from passes.sites.kind import Found, Kind
from passes.sites.kinds import kind_names, with_kind
from passes.sites.site import Site, Slice, Unsupported
from passes.sites.site_nodes import SiteNodes
from passes.sites.walk import readers
from passes.solve.compensation import compensate
from passes.solve.error_curves import ErrorCurve, removal_curve
from passes.solve.recipes import Recipe
from slimdiff_fx.commands.printed import inspect_table
from slimdiff_fx.saved.summary import summarize

ACTIVATION = torch.ops.aten.silu.default


def _pointwise(program: Program, node: object) -> nn.Conv2d | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = program.module(str(node.target))
    return module if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1 else None


def _find(program: Program) -> list[Found]:
    found: list[Found] = []
    for node in program.graph.nodes:
        hidden = node.args[0] if _pointwise(program, node) else None
        first = hidden.args[0] if isinstance(hidden, fx.Node) and hidden.target is ACTIVATION else None
        module = _pointwise(program, first)
        if module is None or not isinstance(hidden, fx.Node) or not isinstance(first, fx.Node):
            continue
        path, tap = str(first.target), str(node.target)
        if set(readers(first)) != {hidden} or set(readers(hidden)) != {node}:
            found.append(Unsupported(tap, "pointwise", "a channel is used elsewhere as well"))
            continue
        site = Site(tap, "pointwise", module.out_channels, (Slice(path, "out"), Slice(tap, "in")), tap)
        found.append((site, SiteNodes(hidden, None, None, None, node, (first,), ())))
    return found


def _tokens(activation: Tensor) -> Tensor:
    return activation.movedim(1, -1).flatten(1, -2)


def _curve(site: Site, weight: Tensor, inputs: Covariance, sums: Sums, recipe: Recipe) -> ErrorCurve:
    return removal_curve(site, weight, inputs)


POINTWISE = Kind(
    name="pointwise",
    words="channels",
    find=_find,
    mask_axis=1,
    tokens=_tokens,
    observer=NeuronObserver,
    criterion="mean_abs",
    curve=_curve,
    compensate=compensate,
)


class Block(nn.Module):
    """Two 1×1 convolutions, a feed-forward on the same channels, and what keeps one more pair from being a site."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1, bias=False)
        self.up, self.down = nn.Linear(4, 10), nn.Linear(10, 4)
        self.open1, self.open2 = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        sample = sample * (1 + timestep / 1000)
        sample = sample + self.second(nn.functional.silu(self.first(sample)))
        tokens = sample.flatten(2).transpose(1, 2)
        tokens = tokens + self.down(nn.functional.gelu(self.up(tokens)))
        sample = tokens.transpose(1, 2).reshape(sample.shape)
        leaks = nn.functional.silu(self.open1(sample))
        return sample + self.open2(leaks) + leaks.mean()


def _inputs(seed: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Half of what goes in is nearly the same in every channel: some hidden channels carry little.
    sample = torch.randn(batch, 4, 6, 5, generator=generator, dtype=torch.float64)
    return sample * torch.tensor([1.0, 1.0, 0.1, 0.1]).reshape(1, 4, 1, 1), torch.tensor(100 * seed + 50)


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with with_kind(POINTWISE):
        yield


@pytest.fixture(scope="module")
def block() -> Block:
    torch.manual_seed(0)
    return Block().double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def program(block: Block) -> Program:
    batch = torch.export.Dim("batch", min=1, max=64)
    return capture(block, _inputs(0), dynamic_shapes=({0: batch}, None))


@pytest.fixture
def plan(program: Program, request: pytest.FixtureRequest) -> SlimPlan:
    prepared = slimdiff_fx.prepare(program)
    slimdiff_fx.calibrate(prepared, [(_inputs(seed), {}) for seed in range(4)])
    plan: SlimPlan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepParams(0.7), method=request.param)
    return plan


EVERY_METHOD = pytest.mark.parametrize("plan", ["best", "obs", "slimdiff", "threshold"], indirect=True)


SITES = [("second", "pointwise"), ("down", "feed_forward")]


def test_it_is_found_among_the_others_and_what_leaks_is_left(program: Program) -> None:
    assert [(site.name, site.kind) for site in find_sites(program)] == SITES
    assert [(each.name, each.kind) for each in find_unsupported(program)] == [("open2", "pointwise")]


@EVERY_METHOD
def test_every_method_plans_cuts_and_proves_it(program: Program, plan: SlimPlan) -> None:
    entry = plan.sites["second"]
    assert 1 <= len(entry.kept) < 12
    slim = slimdiff_fx.convert(program, plan)  # validated: equal to masking
    assert slim.module("first").out_channels == slim.module("second").in_channels == len(entry.kept)
    masked = mask(program, plan)
    args = _inputs(9, batch=3)
    torch.testing.assert_close(slim(*args), masked(*args), rtol=0, atol=1e-12)
    assert not torch.equal(slim(*args), program(*args))
    verify(slim)
    lowered = slimdiff_fx.lower(slim).module()
    torch.testing.assert_close(lowered(*args), slim(*args), rtol=0, atol=1e-12)


@pytest.mark.parametrize("plan", ["best"], indirect=True)
def test_a_plan_carries_it_to_the_eager_model_from_its_file(block: Block, program: Program, plan: SlimPlan) -> None:
    read = SlimPlan.from_json(plan.to_json(), plan.tensors())
    assert read.found == {site.name: site for site in find_sites(program)} == plan.found
    eager = slimdiff_fx.apply_plan(block, read)
    args = _inputs(5)
    torch.testing.assert_close(eager(*args), slimdiff_fx.convert(program, plan)(*args), rtol=0, atol=1e-12)
    assert block.first.out_channels == 12


@pytest.mark.parametrize("plan", ["obs"], indirect=True)
def test_onnx_runtime_computes_the_same(program: Program, plan: SlimPlan, tmp_path: Path) -> None:
    file = tmp_path / "slim.onnx"
    slimdiff_fx.export_onnx(slimdiff_fx.convert(program, plan), file, dtype=torch.float32)  # compared at once
    weights = {each.name: list(each.dims) for each in onnx.load(file).graph.initializer}
    kept = len(plan.sites["second"].kept)
    assert [kept, 4, 1, 1] in weights.values()
    assert [4, kept, 1, 1] in weights.values()


def test_costs_and_tables_know_its_words(program: Program) -> None:
    summary = summarize(program, find_sites(program))
    row = summary.sites[0]
    assert (row.params, row.macs) == (12 * (4 + 1 + 4), 12 * 2 * 30 * (4 + 4))
    console = Console(width=100, record=True)
    console.print(inspect_table(summary))
    printed = console.export_text()
    assert "12 channels" in printed
    assert "0 attention, 1 feed-forward and 1 pointwise sites" in printed


def test_a_name_is_taken_once_and_known_only_for_a_while(program: Program) -> None:
    with pytest.raises(UsageError, match="'pointwise' already"), with_kind(POINTWISE):
        pass
    text = (
        SlimPlan({}, {}).to_json().replace('"sites": {}', '"sites": {"a": {"kind": "other", "units": 2, "kept": [0]}}')
    )
    with pytest.raises(PlanError, match="unknown kind 'other'"):
        SlimPlan.from_json(text)
    assert kind_names() == ("attention", "feed_forward", "pointwise")
