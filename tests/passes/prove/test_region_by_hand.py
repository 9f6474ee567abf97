"""What enters a region and how: tensors, sizes, bare weights, norms of a head; nothing of it reaches the program."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from passes.errors import CouplingError
from passes.program.program import Program
from passes.prove.region import cut_region, holds_tensor, region_nodes
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes
from tests.sites import linear_site

ATEN = torch.ops.aten
BATCH, TOKENS, HEADS, WIDTH = 2, 40, 3, 4
CHANNELS = HEADS * WIDTH


class Graph:
    """One linear, whatever a test puts between, another linear."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.owner: Any = nn.Module()
        self.owner.up, self.owner.down = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.owner.other = nn.Linear(CHANNELS, CHANNELS)
        self.owner.norm, self.owner.batch = nn.LayerNorm(WIDTH), nn.BatchNorm1d(TOKENS).eval()
        self.owner.gain = nn.Parameter(torch.rand(CHANNELS), requires_grad=False)
        self.owner.register_buffer("table", torch.rand(CHANNELS))
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.x = self.shaped(self.graph.placeholder("x"), [BATCH, TOKENS, CHANNELS])
        self.start = self.module("up", self.x)
        self.owner.deep = nn.Module()
        self.owner.deep.er = nn.Module()
        self.owner.deep.er.linear = nn.Linear(CHANNELS, CHANNELS)
        self.owner.deep.er.gain = nn.Parameter(torch.rand(CHANNELS))

    def shaped(self, node: fx.Node, shape: list[int], dtype: torch.dtype = torch.float32) -> fx.Node:
        node.meta["val"] = self.mode.from_tensor(torch.zeros(shape, dtype=dtype), static_shapes=True)
        return node

    def input(self, shape: list[int], dtype: torch.dtype = torch.float32) -> fx.Node:
        with self.graph.inserting_before(self.start):
            return self.shaped(self.graph.placeholder(f"more{len(self.graph.nodes)}"), shape, dtype)

    def call(self, target: Any, *arguments: Any, shape: list[int] | None = None, **options: Any) -> fx.Node:
        node = self.graph.call_function(target, arguments, options)
        return self.shaped(node, shape or [BATCH, TOKENS, CHANNELS])

    def module(self, name: str, value: fx.Node, shape: list[int] | None = None) -> fx.Node:
        return self.shaped(self.graph.call_module(name, (value,)), shape or [BATCH, TOKENS, CHANNELS])

    def attribute(self, name: str, shape: list[int]) -> fx.Node:
        with self.graph.inserting_before(self.start):
            return self.shaped(self.graph.get_attr(name), shape)

    def close(self, hidden: fx.Node, *more: fx.Node, kind: Any = "feed_forward") -> tuple[Program, Site, SiteNodes]:
        end = self.module("down", hidden)
        self.graph.output((end, *more))
        units, width = (HEADS, WIDTH) if kind == "attention" else (CHANNELS, 1)
        site = linear_site("s", kind, units, width, ("up",), "down")
        nodes = SiteNodes(hidden, None, None, None, end, (self.start,), ())
        return Program(fx.GraphModule(self.owner, self.graph), (), timestep=None), site, nodes


def names(module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op in ("get_attr", "call_module")]


def test_tensors_from_outside_are_inputs_of_their_type() -> None:
    graph = Graph()
    mask = graph.input([BATCH, TOKENS, 1], torch.bool)
    index = graph.input([CHANNELS], torch.int64)
    shift = graph.input([CHANNELS], torch.float64)
    hidden = graph.call(ATEN.where.self, mask, graph.start, 0.0)
    hidden = graph.call(ATEN.index_select.default, hidden, 2, index)
    program, site, nodes = graph.close(graph.call(ATEN.add.Tensor, hidden, shift))
    region = cut_region(program, site, nodes, limit=None)
    found = [(tuple(value.shape), value.dtype) for value in region.inputs]
    assert found == [
        ((BATCH, TOKENS, CHANNELS), torch.float32),
        ((BATCH, TOKENS, 1), torch.bool),
        ((CHANNELS,), torch.int64),
        ((CHANNELS,), torch.float64),
    ]
    assert [float(value.double().unique()) for value in region.inputs] == [0.5, 1, 1, 0.5]
    assert len({node.name for node in region.module.graph.nodes if node.op == "placeholder"}) == 4


def test_a_bare_parameter_is_shown_and_a_buffer_is_an_input() -> None:
    graph = Graph()
    gain, table = graph.attribute("gain", [CHANNELS]), graph.attribute("table", [CHANNELS])
    hidden = graph.call(ATEN.mul.Tensor, graph.start, gain)
    program, site, nodes = graph.close(graph.call(ATEN.add.Tensor, hidden, table))
    region = cut_region(program, site, nodes)
    assert names(region.module) == ["gain", "up", "down"] or names(region.module) == ["up", "gain", "down"]
    assert region.module.gain.requires_grad
    assert region.module.gain.data_ptr() == program.graph_module.gain.data_ptr()
    assert not program.graph_module.gain.requires_grad
    assert len(region.inputs) == 2


def test_symbolic_sizes_become_small_numbers() -> None:
    graph = Graph()
    value = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(BATCH, TOKENS, CHANNELS))
    graph.x.meta["val"] = value
    with graph.graph.inserting_before(graph.start):
        size = graph.graph.call_function(ATEN.sym_size.int, (graph.x, 1))
    size.meta["val"] = value.shape[1]
    program, site, nodes = graph.close(graph.call(ATEN.view.default, graph.start, [-1, size, CHANNELS]))
    for limit, tokens in ((16, 16), (None, TOKENS)):
        region = cut_region(program, site, nodes, limit)
        view = next(node for node in region.module.graph.nodes if node.target is ATEN.view.default)
        assert view.args[1] == [-1, tokens, CHANNELS]
        # CHANNELS is a symbol in what enters, and small already.
        assert tuple(region.inputs[0].shape) == (BATCH, tokens, CHANNELS)


def test_an_input_without_a_shape_is_refused() -> None:
    graph = Graph()
    odd = graph.input([CHANNELS])
    odd.meta["val"] = (torch.zeros(2), torch.zeros(2))
    program, site, nodes = graph.close(graph.call(ATEN.add.Tensor, graph.start, odd))
    with pytest.raises(CouplingError, match=rf"'s'.*{odd.name!r} enters it without a known shape"):
        cut_region(program, site, nodes)


def _heads(graph: Graph, order: list[int]) -> fx.Node:
    view = graph.call(
        ATEN.view.default, graph.start, [BATCH, TOKENS, HEADS, WIDTH], shape=[BATCH, TOKENS, HEADS, WIDTH]
    )
    shape = [[BATCH, TOKENS, HEADS, WIDTH][axis] for axis in order]
    return graph.call(ATEN.permute.default, view, order, shape=shape)


@pytest.mark.parametrize(
    ("order", "kind", "identity"),
    [
        ([0, 1, 2, 3], "attention", True),
        ([0, 2, 1, 3], "attention", True),
        ([2, 0, 1, 3], "attention", False),
        ([0, 1, 2, 3], "feed_forward", False),
    ],
)
def test_a_norm_within_each_head_is_left_out(order: list[int], kind: str, identity: bool) -> None:
    graph = Graph()
    split = _heads(graph, order)
    normed = graph.module("norm", split, [int(size) for size in split.meta["val"].shape])
    merged = graph.call(ATEN.reshape.default, normed, [BATCH, TOKENS, CHANNELS])
    program, site, nodes = graph.close(merged, kind=kind)
    region = cut_region(program, site, nodes)
    assert isinstance(region.module.norm, nn.Identity) is identity
    assert isinstance(program.module("norm"), nn.LayerNorm)


def test_a_norm_of_another_length_stays() -> None:
    graph = Graph()
    graph.owner.norm = nn.LayerNorm(CHANNELS)
    program, site, nodes = graph.close(graph.module("norm", graph.start), kind="attention")
    assert isinstance(cut_region(program, site, nodes).module.norm, nn.LayerNorm)


def test_modules_are_copies_with_the_same_memory() -> None:
    graph = Graph()
    program, site, nodes = graph.close(graph.module("batch", graph.start))
    region = cut_region(program, site, nodes)
    own, copied = program.module("batch"), region.module.get_submodule("batch")
    assert copied is not own
    assert copied.running_mean is own.running_mean
    assert copied.weight.data_ptr() == own.weight.data_ptr()
    copied.train()
    copied.register_forward_hook(lambda *_: None)
    copied.register_forward_pre_hook(lambda *_: None)
    copied.more = nn.Linear(1, 1)
    copied.register_buffer("extra", torch.zeros(1))
    copied.weight = nn.Parameter(torch.zeros(1))
    assert not own.training
    assert not own._forward_hooks
    assert not own._forward_pre_hooks
    assert not own._modules
    assert "extra" not in own._buffers
    assert own.weight.shape == (TOKENS,)


def test_a_linear_without_a_bias_has_none_in_the_copy() -> None:
    graph = Graph()
    graph.owner.up = nn.Linear(CHANNELS, CHANNELS, bias=False)
    program, site, nodes = graph.close(graph.call(ATEN.gelu.default, graph.start))
    assert cut_region(program, site, nodes).module.get_submodule("up").bias is None


def test_copies_tell_which_node_is_which() -> None:
    graph = Graph()
    hidden = graph.call(ATEN.gelu.default, graph.start)
    program, site, nodes = graph.close(hidden)
    region = cut_region(program, site, nodes)
    assert list(region.copies) == [graph.start, hidden, nodes.reader]
    assert [node.target for node in region.copies.values()] == ["up", ATEN.gelu.default, "down"]
    assert all(node.graph is region.module.graph for node in region.copies.values())


@pytest.mark.parametrize(
    ("arguments", "options", "dim"),
    [((2, 2), {}, -1), ((2,), {"dim": 2}, -1), ((2, -1), {}, -1), ((2, 1), {}, 1), ((2,), {}, None), ((2, 0), {}, 0)],
)
@pytest.mark.parametrize("target", [ATEN.chunk.default, ATEN.split.Tensor])
def test_a_split_of_the_last_axis_is_counted_from_the_end(
    target: Any, arguments: tuple[Any, ...], options: dict[str, Any], dim: int | None
) -> None:
    graph = Graph()
    split = graph.call(target, graph.start, *arguments, **options)
    program, site, nodes = graph.close(graph.call(operator.getitem, split, 0))
    region = cut_region(program, site, nodes)
    copy = region.copies[split]
    assert (copy.args[2] if len(copy.args) > 2 else copy.kwargs.get("dim")) == dim
    assert copy.args[1] == 2
    assert (split.args[1:], dict(split.kwargs)) == (arguments, options)


def test_what_enters_among_the_units_is_followed_to_the_nearest_modules() -> None:
    graph = Graph()
    far = graph.module("norm", graph.module("other", graph.x))
    near = graph.call(ATEN.gelu.default, far)
    program, site, nodes = graph.close(graph.call(ATEN.mul.Tensor, graph.start, near))
    listed = [node.name for node in region_nodes(site, nodes)]
    assert "norm" in listed
    assert near.name in listed
    # A module is where it stops, and what feeds the producers is not of the site.
    assert "other" not in listed
    assert "x" not in listed
    assert listed == [node.name for node in program.graph.nodes if node.name in listed]


def test_a_site_whose_reader_does_not_come_from_it_is_refused() -> None:
    graph = Graph()
    _, site, nodes = graph.close(graph.call(ATEN.gelu.default, graph.x), graph.start)
    with pytest.raises(CouplingError, match="'down' doesn't come from its writers"):
        region_nodes(site, nodes)


def test_a_writer_behind_the_reader_is_refused() -> None:
    graph = Graph()
    end = graph.module("down", graph.x)
    late = graph.module("other", graph.x)
    graph.graph.output((end, late))
    site = linear_site("s", "feed_forward", CHANNELS, 1, ("other",), "down")
    with pytest.raises(CouplingError, match="doesn't come from"):
        region_nodes(site, SiteNodes(end, None, None, None, end, (late,), ()))


def test_who_asks_for_a_size_is_no_stranger_and_who_reads_is_named() -> None:
    graph = Graph()
    hidden = graph.call(ATEN.gelu.default, graph.start)
    size = graph.graph.call_function(ATEN.sym_size.int, (hidden, 0))
    size.meta["val"] = BATCH
    _, site, nodes = graph.close(hidden, size)
    assert region_nodes(site, nodes) == (graph.start, hidden, nodes.reader)
    graph = Graph()
    hidden = graph.call(ATEN.gelu.default, graph.start)
    read = graph.call(ATEN.neg.default, hidden)
    _, site, nodes = graph.close(hidden, read)
    with pytest.raises(CouplingError, match=f"also feed 'output', outside the site, by way of {read.name!r}"):
        region_nodes(site, nodes)


@pytest.mark.parametrize("path", ["up", "down"])
def test_a_linear_that_is_called_elsewhere_is_refused(path: str) -> None:
    graph = Graph()
    again = graph.module(path, graph.x)
    _, site, nodes = graph.close(graph.call(ATEN.gelu.default, graph.start), again)
    with pytest.raises(CouplingError, match=f"'{path}' is called more than once"):
        region_nodes(site, nodes)


@pytest.mark.parametrize(
    ("value", "tensor"),
    [(3, False), (2.5, False), (True, False), (torch.zeros(1), True), ((torch.zeros(1),), True), (None, True)],
)
def test_a_size_is_no_tensor(value: Tensor | None, tensor: bool) -> None:
    node = fx.Graph().placeholder("x")
    node.meta["val"] = value
    assert holds_tensor(node) is tensor


def test_modules_and_weights_keep_their_paths_however_deep() -> None:
    graph = Graph()
    gain = graph.attribute("deep.er.gain", [CHANNELS])
    other = graph.module("deep.er.linear", graph.start)
    program, site, nodes = graph.close(graph.call(ATEN.mul.Tensor, other, gain))
    region = cut_region(program, site, nodes)
    own, copied = program.module("deep.er.linear"), region.module.get_submodule("deep.er.linear")
    assert copied.weight.data_ptr() == own.weight.data_ptr()
    assert region.module.get_parameter("deep.er.gain").data_ptr() == program.module("deep.er").gain.data_ptr()
