"""What is said when DepGraph's answer isn't the site's own, or when it gives none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning

from passes.errors import CouplingError
from passes.prove.coupling import check_coupling, expected_reach
from tests.passes.hand_graphs import (
    HEADS,
    NEURONS,
    Gated,
    PlainAttention,
    attention_site,
    feed_forward_site,
    hand_nodes,
    hand_program,
)

GEGLU = feed_forward_site(("up", (0, NEURONS)))
KEPT = torch.arange(NEURONS) >= 2


def test_a_graph_that_can_t_be_followed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    program = hand_program(Gated())
    asked: list[tuple[int, ...]] = []

    def fail(self: Any, model: Any, example_inputs: Any, **_: Any) -> None:
        asked.append(tuple(example_inputs[0].shape))
        raise ValueError("no such operator")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fail)
    with pytest.raises(CouplingError, match=r"'feed_forward': DepGraph .*\(ValueError: no such operator\)") as caught:
        check_coupling(program, GEGLU, KEPT, hand_nodes(program, GEGLU))
    assert isinstance(caught.value.__cause__, ValueError)
    # Small first, then at the captured sizes.
    assert len(asked) == 2


def test_what_fails_on_small_sizes_is_tried_at_the_captured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    program = hand_program(Gated(), tokens=50)
    build = torch_pruning.DependencyGraph.build_dependency

    def fail_when_small(self: Any, model: Any, example_inputs: Any, **options: Any) -> Any:
        if example_inputs[0].shape[1] < 50:
            raise ValueError("too small")
        return build(self, model, example_inputs, **options)

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fail_when_small)
    check_coupling(program, GEGLU, KEPT, hand_nodes(program, GEGLU))


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (
            feed_forward_site(("up", (0, NEURONS - 1))),
            r"'up' \(output side\): DepGraph takes channels \[.*\] \(1\) that the site keeps",
        ),
        (feed_forward_site(("up", (0,))), r"'up' \(output side\): DepGraph takes channels \[24, 25\] \(2\)"),
    ],
)
def test_channels_that_differ_are_listed(site: Any, words: str) -> None:
    program = hand_program(Gated())
    with pytest.raises(CouplingError, match=words):
        check_coupling(program, site, KEPT, hand_nodes(program, site))


def test_long_lists_are_cut_off_and_counted() -> None:
    program = hand_program(Gated())
    site = feed_forward_site(("up", (0,)))
    kept = torch.arange(NEURONS) >= 9
    with pytest.raises(
        CouplingError, match=r"\[24, 25, 26, 27, 28, 29\] … \(9\) that the site keeps and leaves \[\] \(0\)"
    ):
        check_coupling(program, site, kept, hand_nodes(program, site))


def test_narrower_heads_take_their_last_channels() -> None:
    site = attention_site("q", "k", "v")
    kept = torch.ones(HEADS, dtype=torch.bool)
    gone = {3, 7, 11, 15}
    expected = {("q", "out"): gone, ("k", "out"): gone, ("v", "out"): gone, ("out", "in"): gone}
    assert expected_reach(site, kept, 3) == expected
    kept[1] = False
    assert expected_reach(site, kept, 3)["q", "out"] == {3, 4, 5, 6, 7, 11, 15}


def test_narrower_heads_are_proved_by_their_own_channels() -> None:
    program = hand_program(PlainAttention())
    site = attention_site("q", "k", "v")
    nodes = hand_nodes(program, site)
    check_coupling(program, site, torch.ones(HEADS, dtype=torch.bool), nodes, width=3)
    # A site that forgets its values names too little at any width.
    with pytest.raises(CouplingError, match="'v'"):
        check_coupling(program, attention_site("q", "k"), torch.ones(HEADS, dtype=torch.bool), nodes, width=3)
