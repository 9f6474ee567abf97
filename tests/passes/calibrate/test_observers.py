"""What observers measure, against the same figures computed plainly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import passes.calibrate.observers
from passes.calibrate.instrument import Opening
from passes.calibrate.ledger import Ledger
from passes.calibrate.observers import HeadObserver, NeuronObserver, UnitObserver, Weighing
from passes.calibrate.token_sampling import MOST_QUERIES, sampled_positions
from passes.errors import CalibrationError
from tests.sites import linear_site

HEADS = linear_site("block.attention", "attention", 3, 4, ("q", "k", "v"), "out")
NEURONS = linear_site("block.ff", "feed_forward", 5, 1, (("up", (0, 5)),), "down")


def ready(observer: UnitObserver, buckets: int = 10) -> tuple[UnitObserver, Ledger]:
    ledger = Ledger({observer.site.name: (observer.site.units, observer.statistics)}, buckets)
    observer.ledger = ledger
    return observer, ledger


def run(observer: UnitObserver, timestep: object, *tensors: Tensor | None, buckets: int = 10) -> dict[str, Tensor]:
    observer, ledger = ready(observer, buckets)
    Opening(ledger, 1000.0)(timestep)
    observer(*tensors)
    ledger.commit()
    return ledger.read()[0][observer.site.name]


@pytest.mark.parametrize("shape", [(4, 7, 5), (4, 2, 3, 5)])
def test_neurons_are_summed_over_all_tokens(shape: tuple[int, ...]) -> None:
    activation = torch.randn(shape, dtype=torch.float64)
    sums = run(NeuronObserver(NEURONS), 250, activation)
    flat = activation.reshape(-1, 5)
    torch.testing.assert_close(sums["abs"][2], flat.abs().sum(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["square"][2], flat.square().sum(0), rtol=1e-12, atol=0)
    assert sums["count"].tolist() == [0, 0, len(flat)] + [0] * 7
    assert sums["abs"].sum(1).count_nonzero() == 1


def test_each_sample_goes_to_its_own_timestep() -> None:
    activation = torch.randn(4, 7, 5, dtype=torch.float64)
    sums = run(NeuronObserver(NEURONS), torch.tensor([999, 0, 999, 100]), activation)
    expected = activation.abs().sum(1)
    torch.testing.assert_close(sums["abs"][9], expected[0] + expected[2], rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["abs"][0], expected[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["abs"][1], expected[3], rtol=1e-12, atol=0)
    assert sums["count"].tolist() == [7, 7] + [0] * 7 + [14]


@pytest.mark.parametrize(
    ("timestep", "bucket"),
    [(0, 0), (99.9, 0), (100, 1), (torch.tensor(999), 9), (torch.tensor([1000]), 9), (-3, 0), (torch.tensor(1e9), 9)],
)
def test_timesteps_fall_into_equal_buckets(timestep: object, bucket: int) -> None:
    sums = run(NeuronObserver(NEURONS), timestep, torch.ones(2, 3, 5))
    assert sums["count"].nonzero().flatten().tolist() == [bucket]


def test_without_timestep_there_is_one_bucket() -> None:
    assert run(NeuronObserver(NEURONS), None, torch.ones(2, 3, 5), buckets=1)["count"].tolist() == [6]


def test_timesteps_that_fit_no_batch_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"block\.ff.*4 samples on 3 timesteps"):
        run(NeuronObserver(NEURONS), torch.tensor([1, 2, 3]), torch.ones(4, 7, 5))


def test_head_norms() -> None:
    output = torch.randn(2, 9, 3, 4, dtype=torch.float64).transpose(1, 2)
    sums = run(HeadObserver(HEADS), 0, output)
    assert set(sums) == {"l1", "l2", "count"}
    torch.testing.assert_close(sums["l2"][0], output.norm(dim=-1).sum((0, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["l1"][0], output.abs().sum((0, 2, 3)), rtol=1e-12, atol=0)
    assert sums["count"][0] == 18


def weights_of(query: Tensor, key: Tensor, mask: Tensor | None, weighing: Weighing) -> Tensor:
    """Attention weights [B, H, T, S] from SDPA itself: with the identity as values its output is the weights."""
    identity = torch.eye(key.shape[2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, identity, attn_mask=mask, scale=weighing.scale, is_causal=weighing.causal
    )


BOOL_MASK = torch.rand(2, 1, 1, 11, generator=torch.Generator().manual_seed(0)) > 0.4
ROW_MASK = torch.rand(2, 3, 20, 11, generator=torch.Generator().manual_seed(0)).double()
CASES = {
    "plain": (20, None, Weighing()),
    "scaled": (20, None, Weighing(scale=0.9)),
    "causal": (11, None, Weighing(causal=True)),
    "few_tokens": (3, None, Weighing()),
    "bool_mask": (20, BOOL_MASK, Weighing()),
    "float_mask": (20, ROW_MASK, Weighing()),
    "minus_infinity": (20, torch.zeros(2, 1, 1, 11).double().masked_fill(~BOOL_MASK, -torch.inf), Weighing()),
}


@pytest.mark.parametrize("case", CASES)
def test_entropy_and_confidence_are_those_of_sdpa(case: str) -> None:
    tokens, mask, weighing = CASES[case]
    query, key, output = (torch.randn(2, 3, length, 4, dtype=torch.float64) for length in (tokens, 11, tokens))
    sums = run(HeadObserver(HEADS, weighing), 0, output, query, key, mask)
    chosen = weights_of(query, key, mask, weighing)[:, :, sampled_positions(tokens)]
    count = 2 * tokens
    entropy = torch.special.entr(chosen).sum(-1).mean((0, 2))
    torch.testing.assert_close(sums["entropy"][0] / count, entropy, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(sums["confidence"][0] / count, chosen.amax(-1).mean((0, 2)), rtol=1e-10, atol=0)


def test_a_query_that_sees_nothing_counts_as_zero() -> None:
    mask = torch.ones(2, 1, 1, 11, dtype=torch.bool)
    mask[0] = False
    query, key, output = (torch.randn(2, 3, length, 4, dtype=torch.float64) for length in (20, 11, 20))
    sums = run(HeadObserver(HEADS, Weighing()), 0, output, query, key, mask)
    alone = run(HeadObserver(HEADS, Weighing()), 0, output[1:], query[1:], key[1:])
    torch.testing.assert_close(sums["entropy"], alone["entropy"], rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["confidence"], alone["confidence"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (2, 2), (3, 2), (16, 2), (64, 4), (77, 4), (4096, 8)])
def test_sampled_positions_are_one_in_each_stretch(tokens: int, count: int) -> None:
    positions = sampled_positions(tokens)
    ends = [stretch * tokens // count for stretch in range(count + 1)]
    assert len(positions) == count
    assert all(ends[index] <= position < ends[index + 1] for index, position in enumerate(positions))


def test_sampled_positions_are_not_one_column_of_a_picture() -> None:
    assert len({position % 64 for position in sampled_positions(4096)}) == MOST_QUERIES


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 24, 70, 10**6])
def test_blocks_add_up_to_the_whole(block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    neurons, heads = torch.randn(4, 7, 5).to(dtype), torch.randn(4, 7, 3, 4).to(dtype).transpose(1, 2)
    expected = run(NeuronObserver(NEURONS), 0, neurons) | run(HeadObserver(HEADS), 0, heads)
    monkeypatch.setattr(passes.calibrate.observers, "BLOCK", block)
    found = run(NeuronObserver(NEURONS), 0, neurons) | run(HeadObserver(HEADS), 0, heads)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6  # half types are summed in float32
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_summed_without_overflow_or_stall(dtype: torch.dtype) -> None:
    # 300² overflows float16; 3,000 times 1 stalls at 256 in bfloat16 and at 2048 in float16.
    large = run(NeuronObserver(NEURONS), 0, torch.full((1, 3000, 5), 300.0, dtype=dtype))
    assert large["square"][0].tolist() == [3000 * 300.0**2] * 5
    ones = run(NeuronObserver(NEURONS), 0, torch.ones(1, 3000, 5, dtype=dtype))
    assert ones["abs"][0].tolist() == [3000] * 5


def test_autocast_changes_nothing() -> None:
    query, key, output = (torch.randn(2, 3, 20, 4) for _ in range(3))
    plain = run(HeadObserver(HEADS, Weighing()), 0, output, query, key)
    with torch.autocast("cpu", torch.bfloat16):
        cast = run(HeadObserver(HEADS, Weighing()), 0, output, query, key)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_activations_name_the_site_and_leave_the_sums(bad: float) -> None:
    observer, ledger = ready(NeuronObserver(NEURONS))
    opening = Opening(ledger, 1000.0)
    activation = torch.ones(2, 3, 5)
    opening(5)
    observer(activation)
    ledger.commit()
    before = ledger.read()
    activation[1, 2, 3] = bad
    opening(5)
    observer(activation)
    with pytest.raises(CalibrationError, match=r"block\.ff"):
        ledger.commit()
    assert torch.equal(ledger.read()[0]["block.ff"]["abs"], before[0]["block.ff"]["abs"])
    assert ledger.read()[1:] == before[1:] == (2, 1)


def test_an_interrupted_forward_leaves_no_trace() -> None:
    observer, ledger = ready(NeuronObserver(NEURONS))
    opening = Opening(ledger, 1000.0)
    opening(5)
    observer(torch.ones(2, 3, 5))  # and no commit
    opening(5)
    observer(torch.ones(1, 3, 5))
    ledger.commit()
    assert ledger.read()[0]["block.ff"]["abs"][0].tolist() == [3] * 5
