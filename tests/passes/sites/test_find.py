from __future__ import annotations

import re

import pytest
import torch

from passes.errors import PlanError
from passes.sites.find import find_sites, find_unsupported, locate, locate_all
from tests.families import EVERY_FAMILY
from tests.hand_modules import HEAD_DIM, HEADS, NEURONS, WIDTH, Attention, FeedForward, captured
from tests.plans import captured as captured_family
from tests.sites import writers_of

COUNTS = {
    "unet_sd15": (8, 4),
    "unet_sd21": (8, 4),
    "unet_sdxl": (16, 8),
    "unet_inpaint": (8, 4),
    "unet_unconditional": (4, 0),
    "pixart": (4, 3),  # its caption projection is a feed-forward on tokens
    "dit": (2, 2),
}


@EVERY_FAMILY
def test_every_family_has_its_sites(family: str) -> None:
    program = captured_family(family, 0)
    sites = find_sites(program)
    kinds = [site.kind for site in sites]
    assert (kinds.count("attention"), kinds.count("feed_forward")) == COUNTS[family]
    assert find_unsupported(program) == ()
    assert len({site.name for site in sites}) == len(sites)
    order = [node.name for node in program.graph.nodes]
    readers = [order.index(locate(program, site).reader.name) for site in sites]
    assert readers == sorted(readers)
    for site in sites:
        assert site.units >= 2
        paths = site.paths
        assert all(path.startswith(site.name + ".") for path in paths)


@pytest.mark.parametrize("way", ["plain", "mask_broadcast", "mask_repeated", "flatten"])
def test_attention_is_found_with_its_baked_head_counts(way: str) -> None:
    program = captured(Attention(way=way))
    (site,) = find_sites(program)
    assert find_unsupported(program) == ()
    assert (site.kind, site.units, site.unit_width, site.tap) == ("attention", HEADS, HEAD_DIM, "out")
    assert writers_of(site) == ("q", "k", "v")
    nodes = locate(program, site)
    assert tuple(nodes.activation.meta["val"].shape[1::2]) == (HEADS, HEAD_DIM)
    assert nodes.query is not None
    assert nodes.key is not None
    assert nodes.value is not None
    assert [str(call.target) for call in nodes.writers] == ["q", "k", "v"]
    for constant in nodes.constants:
        value: object = constant.node.args
        for step in constant.argument:
            value = value[step]  # type: ignore[index]
        assert value == constant.value(site)
    expected = {"plain": 7, "mask_broadcast": 7, "mask_repeated": 9, "flatten": 6}
    assert len(nodes.constants) == expected[way]


@pytest.mark.parametrize("way", ["fused", "split"])
def test_fused_attention_has_one_producer(way: str) -> None:
    program = captured(Attention(way=way))
    (site,) = find_sites(program)
    assert writers_of(site) == (("qkv", (0, WIDTH, 2 * WIDTH)),)
    splits = [constant for constant in locate(program, site).constants if "split" in constant.node.name]
    for constant in splits:
        assert constant.value(site) == HEADS * HEAD_DIM
        assert constant.argument[0] == 1
    # chunk works its sizes out; split has one baked for all parts, or one for each
    assert len(splits) in ((0,) if way == "fused" else (1, 3))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("grouped", "grouped-query"),
        ("leak", "outside this attention"),
        ("norm_before", "stands between"),
        ("norm_after", "stands between"),
        ("written_out", "matmul, softmax, matmul"),
        ("same_linear", "more than once|outside this attention|same channels"),
        ("tied", "shares its weight|stands between"),
        ("mask_by_head", "mask"),
        ("head_gain", "goes through"),
    ],
)
def test_attention_that_cannot_be_followed_is_refused_with_the_reason(way: str, reason: str) -> None:
    program = captured(Attention(way=way))
    assert find_sites(program) == ()
    (unsupported,) = find_unsupported(program)
    assert unsupported.kind == "attention"
    assert re.search(reason, unsupported.reason)


@pytest.mark.parametrize("way", ["plain", "geglu", "split", "swiglu", "quick_gelu"])
def test_feed_forward_is_found(way: str) -> None:
    program = captured(FeedForward(way=way))
    (site,) = find_sites(program)
    assert find_unsupported(program) == ()
    assert (site.kind, site.units, site.unit_width, site.tap) == ("feed_forward", NEURONS, 1, "down")
    expected = {
        "geglu": (("up", (0, NEURONS)),),
        "split": (("up", (0, NEURONS)),),
        "swiglu": ("up", "gate"),
    }
    assert writers_of(site) == expected.get(way, ("up",))
    nodes = locate(program, site)
    assert nodes.activation.meta["val"].shape[-1] == NEURONS
    assert "dropout" not in nodes.activation.name
    assert nodes.reader.target == "down"
    baked = [(constant.argument, constant.value(site)) for constant in nodes.constants]
    assert baked == ([((1, 0), NEURONS), ((1, 1), NEURONS)] if way == "split" else [])


@pytest.mark.parametrize("way", ["vector", "linear", "norm", "gain"])
def test_what_is_no_feed_forward_is_no_site(way: str) -> None:
    program = captured(FeedForward(way=way))
    assert find_sites(program) == ()
    assert find_unsupported(program) == ()


@pytest.mark.parametrize(
    ("way", "reason"), [("leak", "elsewhere"), ("half_used", "elsewhere"), ("twice", "elsewhere|more than once")]
)
def test_feed_forward_that_is_seen_elsewhere_is_refused(way: str, reason: str) -> None:
    program = captured(FeedForward(way=way))
    assert find_sites(program) == ()
    unsupported = find_unsupported(program)
    assert unsupported
    assert all(item.kind == "feed_forward" and re.search(reason, item.reason) for item in unsupported)


def test_locate_refuses_a_site_of_another_program() -> None:
    (site,) = find_sites(captured(Attention()))
    other = captured(FeedForward())
    with pytest.raises(PlanError, match="find the sites of this program anew"):
        locate(other, site)


def test_finding_leaves_the_program_alone() -> None:
    program = captured(Attention())
    before = str(program.graph)
    locate_all(program)
    assert str(program.graph) == before
    assert torch.equal(program(*program.args), program(*program.args))
