"""Backward elimination: against brute force, and on cases with a known answer."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.moments import Covariance
from passes.solve.elimination import eliminate_heads, eliminate_neurons, leverage_order, leverage_scores, removal_losses
from passes.solve.least_squares import ridge
from tests.covariances import random_covariance, random_weight


def ridge_error(weight: torch.Tensor, inputs: Covariance, kept: list[int], penalty: float) -> float:
    """Least E‖W a − X a_kept‖² + λ‖W − X‖², X zero elsewhere, from its normal equations."""
    matrix = inputs.matrix + penalty * torch.eye(len(inputs.matrix), dtype=torch.float64)
    new = torch.linalg.solve(matrix[kept][:, kept], matrix[kept] @ weight.T).T
    lost = weight.clone()
    lost[:, kept] -= new
    return float(torch.trace(lost @ matrix @ lost.T))


def greedy(weight: torch.Tensor, inputs: Covariance, units: list[list[int]]) -> tuple[list[int], list[float]]:
    """Remove one unit after another by trying all of them."""
    penalty = ridge(inputs.matrix, inputs.count)
    left, order, errors = list(range(len(units))), [], []
    while len(left) > 1:
        tried = {
            unit: ridge_error(weight, inputs, [c for other in left if other != unit for c in units[other]], penalty)
            for unit in left
        }
        unit = min(tried, key=lambda each: tried[each])
        order.append(unit)
        errors.append(tried[unit])
        left.remove(unit)
    return order, errors


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [1, 3, 64])
def test_neurons_go_as_brute_force_has_it(seed: int, block: int) -> None:
    inputs, weight = random_covariance(11, seed), random_weight(4, 11, seed)
    order, errors = greedy(weight, inputs, [[unit] for unit in range(11)])
    found = eliminate_neurons(weight, inputs, block)
    assert list(found.order) == order
    assert list(found.errors) == pytest.approx(errors, rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_heads_go_as_brute_force_has_it(seed: int) -> None:
    inputs, weight = random_covariance(15, seed), random_weight(6, 15, seed)
    order, errors = greedy(weight, inputs, torch.arange(15).reshape(5, 3).tolist())
    found = eliminate_heads(weight, inputs, 5)
    assert list(found.order) == order
    assert list(found.errors) == pytest.approx(errors, rel=1e-8)


def test_the_size_of_a_block_changes_nothing() -> None:
    inputs, weight = random_covariance(150, 7), random_weight(20, 150, 7)
    one, other = eliminate_neurons(weight, inputs, 1), eliminate_neurons(weight, inputs, 64)
    assert one.order == other.order
    assert list(one.errors) == pytest.approx(list(other.errors), rel=1e-8)
    assert list(one.errors) == sorted(one.errors)


def test_the_first_removal_is_the_least_single_loss() -> None:
    inputs, weight = random_covariance(12, 3), random_weight(4, 12, 3)
    losses = removal_losses(weight, inputs, 12)
    found = eliminate_neurons(weight, inputs)
    assert int(losses.argmin()) == found.order[0]
    assert float(losses.min()) == pytest.approx(found.errors[0])
    by_head = removal_losses(weight, inputs, 4)
    assert int(by_head.argmin()) == eliminate_heads(weight, inputs, 4).order[0]


def test_a_duplicated_neuron_goes_at_no_error() -> None:
    drawn = random_covariance(8, 5)
    twice = torch.cat([torch.arange(8), torch.tensor([2])])
    inputs = Covariance(drawn.mean[twice], drawn.matrix[twice][:, twice], drawn.count)
    found = eliminate_neurons(random_weight(6, 9, 5), inputs)
    assert found.order[0] in (2, 8)
    assert found.errors[0] < 1e-3 * found.errors[1]


def jittered(inputs: Covariance, seed: int) -> Covariance:
    """Round a covariance otherwise: each entry by a unit or two of its last place, symmetrically."""
    noise = torch.randn(inputs.matrix.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    eps = torch.finfo(torch.float64).eps
    return Covariance(inputs.mean, inputs.matrix * (1 + eps * (noise + noise.T)), inputs.count)


@pytest.mark.parametrize("seed", range(5))
def test_equal_units_go_in_their_order_however_sums_were_rounded(seed: int) -> None:
    drawn, weight = random_covariance(6, 5), random_weight(6, 6, 5)
    pairs = torch.arange(6).repeat_interleave(2)  # 0, 0, 1, 1, ...: every unit and its twin
    inputs = Covariance(drawn.mean[pairs], drawn.matrix[pairs][:, pairs], drawn.count)
    plain = eliminate_neurons(weight[:, pairs], inputs)
    again = jittered(inputs, seed)
    assert eliminate_neurons(weight[:, pairs], again).order == plain.order
    assert all(unit % 2 == 0 for unit in plain.order[:6])  # the first of each pair, at next to no error
    assert leverage_order(again).tolist() == leverage_order(inputs).tolist()
    lead = leverage_order(inputs).tolist()
    assert all(lead.index(unit) < lead.index(unit + 1) for unit in range(0, 12, 2))
    heads = torch.arange(6).reshape(3, 2).repeat(1, 2).flatten()  # three heads of two channels, each twice
    twice = Covariance(drawn.mean[heads], drawn.matrix[heads][:, heads], drawn.count)
    order = eliminate_heads(weight[:, heads], twice, 6).order
    assert eliminate_heads(weight[:, heads], jittered(twice, seed), 6).order == order
    assert sorted(order[:3]) == [0, 2, 4]


def test_a_rank_deficient_site_is_cut_for_free() -> None:
    inputs, weight = random_covariance(12, 6, rank=5), random_weight(6, 12, 6)
    found = eliminate_neurons(weight, inputs)
    assert found.errors[6] < 1e-2 * found.errors[7]


def test_an_orthogonal_rotation_of_the_output_leaves_the_curve() -> None:
    inputs, weight = random_covariance(10, 8), random_weight(6, 10, 8)
    turn = torch.linalg.qr(random_weight(6, 6, 9)).Q
    plain, turned = eliminate_neurons(weight, inputs), eliminate_neurons(turn @ weight, inputs)
    assert plain.order == turned.order
    assert list(plain.errors) == pytest.approx(list(turned.errors))


def test_permuted_neurons_go_in_the_permuted_order() -> None:
    inputs, weight = random_covariance(9, 10), random_weight(4, 9, 10)
    moved = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    again = Covariance(inputs.mean[moved], inputs.matrix[moved][:, moved], inputs.count)
    found = eliminate_neurons(weight[:, moved], again)
    assert tuple(moved[list(found.order)].tolist()) == eliminate_neurons(weight, inputs).order


def test_leverage_is_a_share_and_sums_to_the_rank() -> None:
    scores = leverage_scores(random_covariance(12, 11, rank=5))
    assert bool((scores >= 0).all())
    assert bool((scores <= 1).all())
    assert float(scores.sum()) == pytest.approx(5, rel=1e-2)
