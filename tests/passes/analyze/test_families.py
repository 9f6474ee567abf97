from __future__ import annotations

import itertools

import pytest
import torch

from passes.analyze.families import families, joined, sizes_of, spread
from passes.analyze.optimize import Option, allocate_within_cost
from passes.errors import BudgetError
from passes.sites.site import Site
from tests.sites import linear_site


def _site(name: str, units: int = 4, unit_width: int = 1) -> Site:
    return linear_site(name, "feed_forward", units, unit_width, (f"{name}.net.0",), f"{name}.net.2")


def _parameters(sites: list[Site], width: int = 8) -> dict[str, torch.Tensor]:
    found = {}
    for site in sites:
        found[f"{site.name}.net.0.weight"] = torch.zeros(site.width, width)
        found[f"{site.name}.net.2.weight"] = torch.zeros(width, site.width)
    return found


def test_like_sites_of_repeated_blocks_are_a_family() -> None:
    first, second, third = (_site(f"{part}.blocks.{at}.ff") for part, at in (("down.0", 0), ("down.0", 1), ("mid", 0)))
    sites = [
        first,
        _site("down.0.blocks.0.other"),  # another place in the block
        second,
        _site("down.1.blocks.0.ff", units=6),  # another geometry
        third,
        _site("head.ff"),  # in no list
        _site("tail.ff"),
    ]
    parameters = _parameters(sites)
    whole = [(first.name, second.name, third.name), *((sites[at].name,) for at in (1, 3, 5, 6))]
    assert sorted(families(sites, parameters)) == sorted(whole)
    # every shape counts: what is read or written, and whether there is a bias
    wide = {**parameters, "mid.blocks.0.ff.net.0.weight": torch.zeros(4, 9)}
    biased = {**parameters, "mid.blocks.0.ff.net.2.bias": torch.zeros(8)}
    for changed in (wide, biased):
        assert (first.name, second.name) in families(sites, changed)
        assert (third.name,) in families(sites, changed)


def test_a_site_that_is_a_block_itself_has_a_family() -> None:
    sites = [_site("layers.0"), _site("layers.1"), _site("layers")]
    assert families(sites, _parameters(sites)) == (("layers.0", "layers.1"), ("layers",))


def test_the_optimum_over_families_is_the_best_of_equal_sizes() -> None:
    # at budgets that the steps along the hulls just meet, the optimum is exact
    costs = {"a": [9, 6, 3], "b": [9, 6, 3], "c": [8, 4, 2]}
    errors = {"a": [0.0, 1.0, 3.0], "b": [0.0, 5.0, 12.0], "c": [0.0, 2.0, 4.5]}
    options = {name: [Option(at, costs[name][at], errors[name][at]) for at in range(3)] for name in costs}
    sizes = {name: [(size, 1) for size in (3, 2, 1)] for name in costs}
    found = (("a", "b"), ("c",))
    offered = joined(found, options, sizes)
    assert [(each.index, each.cost, each.error) for each in offered["a"]] == [(0, 18, 0.0), (1, 12, 6.0), (2, 6, 15.0)]
    for budget in (26, 22, 16, 14, 8):
        chosen = spread(found, allocate_within_cost(offered, budget), options, sizes)
        assert sizes["a"][chosen["a"].index] == sizes["b"][chosen["b"].index]
        assert sum(option.cost for option in chosen.values()) <= budget
        best = min(
            errors["a"][shared] + errors["b"][shared] + errors["c"][own]
            for shared, own in itertools.product(range(3), repeat=2)
            if costs["a"][shared] + costs["b"][shared] + costs["c"][own] <= budget
        )
        assert sum(option.error for option in chosen.values()) == best


def test_only_sizes_that_all_members_offer_are_offered() -> None:
    options = {"a": [Option(0, 4, 0.0), Option(2, 2, 1.0)], "b": [Option(0, 4, 0.0), Option(1, 3, 0.5)]}
    sizes = {"a": [(4, 1), (3, 1), (2, 1)], "b": [(4, 1), (3, 1), (2, 1)]}
    assert [each.index for each in joined((("a", "b"),), options, sizes)["a"]] == [0]
    with pytest.raises(BudgetError, match="'a' and the 1 sites like it offer no common size"):
        joined((("a", "b"),), {"a": options["a"][1:], "b": options["b"][1:]}, sizes)


def test_a_whole_width_has_one_name() -> None:
    assert sizes_of(_site("x", unit_width=8), [(4, None), (4, 8), (3, 2)]) == [(4, 8), (4, 8), (3, 2)]
