"""Sites are found once for a graph, kept with its program, and found anew where the graph has changed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from weakref import ref

import pytest
import torch
from torch import nn

import slimdiff_fx
from passes.kinds.feed_forward import FEED_FORWARD
from passes.program.program import Program
from passes.sites.find import find_sites, find_unsupported, locate, locate_all, locate_in_copy
from passes.sites.kind import Found
from passes.sites.kinds import with_kind
from tests.observed_block import observed_block
from tests.toy_block import samples


@pytest.fixture
def searched() -> Iterator[list[int]]:
    """Note of which graph each search is."""
    seen: list[int] = []

    def find(program: Program) -> list[Found]:
        seen.append(len(program.graph.nodes))
        return []

    with with_kind(replace(FEED_FORWARD, name="none", find=find)):
        yield seen


def test_once_for_the_dense_program_and_once_for_the_slim_one(searched: list[int]) -> None:
    program, _, _ = observed_block()
    prepared = slimdiff_fx.prepare(program)
    slimdiff_fx.calibrate(prepared, [((samples(2), torch.tensor(500)), {})])
    plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepParams(0.9), method="best")
    assert len(searched) == 1
    slimdiff_fx.convert(program, plan)
    assert len(searched) == 2
    find_sites(program)
    find_unsupported(program)
    assert len(searched) == 2


def _swap_linear(program: Program) -> None:
    site = find_sites(program)[0]
    owner, _, name = site.tap.rpartition(".")
    old = program.module(site.tap)
    setattr(program.module(owner), name, nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype))


def _swap_weight(program: Program) -> None:
    module = program.module(find_sites(program)[0].tap)
    module.weight = nn.Parameter(module.weight.detach().clone())


def _change_argument(program: Program) -> None:
    node = next(iter(locate_all(program).values())).reader
    node.args = (node.args[0],)


def _change_value(program: Program) -> None:
    node = next(iter(locate_all(program).values())).reader
    node.meta["val"] = node.meta["val"].clone()


def _add_node(program: Program) -> None:
    node = next(iter(locate_all(program).values())).activation
    with program.graph.inserting_after(node):
        program.graph.call_function(torch.ops.aten.mul.Tensor, (node, 2.0))


@pytest.mark.parametrize("change", [_swap_linear, _swap_weight, _change_argument, _change_value, _add_node])
def test_a_changed_graph_is_searched_anew(change: Callable[[Program], None], searched: list[int]) -> None:
    program = observed_block()[0].copy()
    find_sites(program)
    find_sites(program)
    assert len(searched) == 1
    change(program)
    find_sites(program)
    assert len(searched) == 2


def test_another_kind_is_looked_for(searched: list[int]) -> None:
    program = observed_block()[0].copy()
    before = find_sites(program)
    with with_kind(replace(FEED_FORWARD, name="more", find=lambda _: [])):
        assert find_sites(program) == before
    assert len(searched) == 2


def test_a_copy_has_the_same_sites_at_its_own_nodes() -> None:
    program = observed_block()[0]
    copied = program.copy()
    assert copied.facts == {}
    sites = find_sites(program)
    places = dict(zip(sites, locate_in_copy(program, copied, sites), strict=True))
    assert tuple(places) == find_sites(program)
    for site, nodes in places.items():
        assert nodes == locate(copied, site)
        assert nodes.reader.graph is copied.graph


def test_weights_that_a_program_has_no_more_are_let_go() -> None:
    program = observed_block()[0].copy()
    module = program.module(find_sites(program)[0].tap)
    module.weight = nn.Parameter(module.weight.detach().clone())
    find_sites(program)
    weight = ref(module.weight)
    module.weight = nn.Parameter(torch.zeros(0))
    gc.collect()
    assert weight() is None
