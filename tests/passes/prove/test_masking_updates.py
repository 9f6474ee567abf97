"""The oracle with new weights: the same as the dense module whose weights were written over by hand."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import Tensor, nn

from passes.errors import CouplingError
from passes.plan.fingerprint import fingerprint
from passes.plan.slim_plan import SitePlan, SlimPlan
from passes.program.program import Program
from passes.prove.masking import mask
from passes.sites.find import find_sites, locate
from tests.hand_modules import HEAD_DIM, HEADS, NEURONS, WIDTH, Attention, FeedForward, captured


@functools.cache
def dense(kind: str) -> tuple[nn.Module, Program]:
    torch.manual_seed(0)
    module = (Attention() if kind == "attention" else FeedForward(way="geglu")).double().eval()
    return module, captured_in_double(module)


def captured_in_double(module: nn.Module) -> Program:
    # The toy's example is float32.
    program = captured(module.float())
    module.double()
    return Program(
        program.graph_module.double(),
        tuple(value.double() for value in program.args),
        program.kwargs,
        program.dynamic_shapes,
        None,
    )


def plan_of(program: Program, updates: dict[str, Tensor], kept: tuple[int, ...], width: int | None = None) -> SlimPlan:
    sites = find_sites(program)
    (site,) = sites
    return SlimPlan(fingerprint(program, sites), {site.name: SitePlan(site.kind, site.units, kept, width)}, {}, updates)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(module: nn.Module, program: Program) -> None:
    x = drawn(3, 7, WIDTH, seed=9)
    torch.testing.assert_close(program(x), module(x), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_new_weights_of_a_feed_forward() -> None:
    module, program = dense("feed_forward")
    before = {name: value.clone() for name, value in program.graph_module.named_parameters()}
    kept = (1, 4, 5, 10)
    gone = [unit for unit in range(NEURONS) if unit not in kept]
    weight, bias = drawn(WIDTH, len(kept)), drawn(WIDTH, seed=2)
    masked = mask(program, plan_of(program, {"down.weight": weight, "down.bias": bias}, kept))
    by_hand = copy.deepcopy(module)
    by_hand.down.weight[:, list(kept)] = weight
    by_hand.down.weight[:, gone] = 0
    by_hand.down.bias.copy_(bias)
    assert_same(by_hand, masked)
    # The dense program has its own weights still, and what isn't new is shared.
    for name, value in program.graph_module.named_parameters():
        assert torch.equal(value, before[name])
    assert masked.module("up").weight is program.module("up").weight
    assert masked.module("down").weight is not program.module("down").weight
    assert masked.graph_module.state_dict().keys() == program.graph_module.state_dict().keys()


@torch.no_grad()
def test_only_a_new_bias() -> None:
    module, program = dense("feed_forward")
    bias = drawn(WIDTH)
    masked = mask(program, plan_of(program, {"down.bias": bias}, tuple(range(NEURONS))))
    by_hand = copy.deepcopy(module)
    by_hand.down.bias.copy_(bias)
    assert_same(by_hand, masked)
    assert masked.module("down").weight is program.module("down").weight
    # Nothing goes, so nothing is multiplied.
    assert masked.graph_module.code == program.graph_module.code


@torch.no_grad()
def test_heads_that_go() -> None:
    module, program = dense("attention")
    masked = mask(program, plan_of(program, {}, (0, 3)))
    by_hand = copy.deepcopy(module)
    by_hand.out.weight[:, HEAD_DIM : 3 * HEAD_DIM] = 0
    assert_same(by_hand, masked)


@torch.no_grad()
def test_narrower_heads_scale_as_the_dense_ones_would() -> None:
    module, program = dense("attention")
    width = 3
    columns = [head * HEAD_DIM + at for head in range(HEADS) for at in range(width)]
    updates = {f"{name}.weight": drawn(HEADS * width, WIDTH, seed=at) for at, name in enumerate("qkv")}
    updates |= {f"{name}.bias": drawn(HEADS * width, seed=5 + at) for at, name in enumerate("qkv")}
    updates |= {"out.weight": drawn(WIDTH, HEADS * width, seed=8)}
    masked = mask(program, plan_of(program, updates, tuple(range(HEADS)), width))
    by_hand = copy.deepcopy(module)
    for name in "qkv":
        linear = by_hand.get_submodule(name)
        # The slim attention divides by the root of its own width, the dense one by that of the whole head.
        factor = math.sqrt(HEAD_DIM / width) if name == "q" else 1.0
        for leaf, value in ((linear.weight, updates[f"{name}.weight"]), (linear.bias, updates[f"{name}.bias"])):
            leaf.zero_()
            leaf[columns] = value * factor
    by_hand.out.weight.zero_()
    by_hand.out.weight[:, columns] = updates["out.weight"]
    assert_same(by_hand, masked)


@torch.no_grad()
def test_what_is_put_in_has_values_for_what_comes_after() -> None:
    _, program = dense("feed_forward")
    masked = mask(program, plan_of(program, {}, (0, 1, 2)))
    product = next(
        node
        for node in masked.graph.nodes
        if any(str(each.name).startswith("_keep") for each in node.args if hasattr(each, "name"))
    )
    activation, keep = product.args
    assert product.meta["val"].shape == activation.meta["val"].shape
    assert tuple(keep.meta["val"].shape) == (NEURONS,)
    assert list(activation.users) == [product]
    assert masked.graph_module.get_buffer(keep.target).tolist() == [1.0] * 3 + [0.0] * (NEURONS - 3)


def test_an_activation_without_the_units_is_refused() -> None:
    _, program = dense("attention")
    broken = program.copy()
    (site,) = find_sites(broken)
    plan = plan_of(broken, {}, (0, 1))
    activation = locate(broken, site).activation
    activation.meta["val"] = activation.meta["val"][:, :3]
    # Found by the shapes of its inputs, but its own says three heads.
    with pytest.raises(CouplingError, match=r"has no 4 units"):
        mask(broken, plan)
