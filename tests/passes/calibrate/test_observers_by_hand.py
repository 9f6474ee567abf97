"""Observers in a graph, and on activations of one sample and of odd shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import passes.calibrate.observers
from passes.calibrate.instrument import Opening
from passes.calibrate.ledger import Ledger
from passes.calibrate.observers import HeadObserver, NeuronObserver, UnitObserver, Weighing
from tests.sites import linear_site

HEADS = linear_site("block.attention", "attention", 3, 4, ("q", "k", "v"), "out")
NEURONS = linear_site("block.ff", "feed_forward", 5, 1, (("up", (0, 5)),), "down")


def measured(observer: UnitObserver, *tensors: Tensor) -> dict[str, Tensor]:
    ledger = Ledger({observer.site.name: (observer.site.units, observer.statistics)}, 1)
    observer.ledger = ledger
    Opening(ledger, 1000.0)(None)
    observer(*tensors)
    ledger.commit()
    return ledger.read()[0][observer.site.name]


@pytest.mark.parametrize("observer", [NeuronObserver(NEURONS), HeadObserver(HEADS), HeadObserver(HEADS, Weighing())])
def test_nothing_uses_an_observer_and_it_stays_in_the_graph(observer: UnitObserver) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    owner = nn.Module()
    owner.observer, owner.unused = observer, nn.Identity()
    graph.call_module("unused", (x,))
    graph.call_module("observer", (x,))
    graph.output(x)
    module = fx.GraphModule(owner, graph)
    module.graph.eliminate_dead_code()
    assert "observer" in [node.target for node in module.graph.nodes]


@pytest.mark.parametrize("block", [1, 12, 24, 61])
def test_one_large_sample_is_summed_a_few_tokens_at_a_time(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes.calibrate.observers, "BLOCK", block)
    neurons = torch.arange(1.0, 36).double().reshape(1, 7, 5) * torch.tensor([1, -1, 1, -1, 1])
    found = measured(NeuronObserver(NEURONS), neurons)
    torch.testing.assert_close(found["abs"][0], neurons[0].abs().sum(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["square"][0], neurons[0].square().sum(0), rtol=1e-12, atol=0)
    assert found["count"].tolist() == [7]
    heads = torch.arange(-42.0, 42).double().reshape(1, 7, 3, 4).transpose(1, 2)
    found = measured(HeadObserver(HEADS), heads)
    torch.testing.assert_close(found["l1"][0], heads.abs().sum((0, 2, 3)), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["l2"][0], heads.square().sum(3).sqrt().sum((0, 2)), rtol=1e-12, atol=0)


def test_an_activation_is_left_as_it_was() -> None:
    neurons = torch.randn(2, 7, 5, dtype=torch.float64)
    heads = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    query, key = torch.randn_like(heads), torch.randn_like(heads)
    before = [value.clone() for value in (neurons, heads, query, key)]
    measured(NeuronObserver(NEURONS), neurons)
    measured(HeadObserver(HEADS, Weighing(causal=True)), heads, query, key)
    for value, old in zip((neurons, heads, query, key), before, strict=True):
        assert torch.equal(value, old)


def test_what_is_no_data_is_not_measured() -> None:
    observer = NeuronObserver(NEURONS)
    ledger = Ledger({NEURONS.name: (5, observer.statistics)}, 1)
    observer.ledger = ledger
    Opening(ledger, 1000.0)(None)
    observer(torch.ones(2, 7, 5))
    with FakeTensorMode():
        observer(torch.zeros(3, 9, 5))
    ledger.commit()
    found = ledger.read()[0][NEURONS.name]
    assert (found["count"].tolist(), found["abs"].tolist()) == ([14], [[14] * 5])
    # And one that belongs to no ledger yet measures nothing either.
    NeuronObserver(NEURONS)(torch.zeros(2, 7, 5))


def test_an_observer_says_whose_it_is() -> None:
    assert "block.ff" in repr(NeuronObserver(NEURONS))
    assert NeuronObserver(NEURONS).statistics == ("abs", "square")
    assert HeadObserver(HEADS).statistics == ("l1", "l2")
    assert HeadObserver(HEADS, Weighing()).statistics == ("l1", "l2", "entropy", "confidence")
