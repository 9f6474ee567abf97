"""New weights against the long way: errors summed row by row, scores of narrower heads, types that hold them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.calibrate.moments import COUNT, FIRST, KEY, KEY_COUNT, KEY_FIRST, QUERY, SECOND
from passes.errors import UsageError
from passes.plan.slim_plan import SitePlan
from passes.solve.compensation import compensate
from tests.covariances import attention, feed_forward, random_weight

KEPT = (0, 2, 3)
ENTRY = SitePlan("feed_forward", 5, KEPT)
SITE = feed_forward(5)
ROWS = random_weight(400, 5, 1) @ random_weight(5, 5, 2) + torch.tensor([1.0, -2, 0.5, 3, -1])
SUMS = {COUNT: torch.tensor(400.0).double(), FIRST: ROWS.sum(0), SECOND: ROWS.T @ ROWS}
PARAMETERS = {"ff.up.weight": random_weight(5, 3, 3), "ff.down.weight": random_weight(4, 5, 4)}
WITH_BIAS = {**PARAMETERS, "ff.down.bias": random_weight(4, 1, 5)[:, 0]}


def lost(parameters: dict[str, Tensor], updates: dict[str, Tensor]) -> float:
    """Give E‖dense − slim‖² over the rows."""
    weight, bias = parameters["ff.down.weight"], parameters.get("ff.down.bias", torch.zeros(4).double())
    new = updates.get("ff.down.weight", weight[:, list(KEPT)])
    shift = updates.get("ff.down.bias", bias)
    total = 0.0
    for row in ROWS:
        total += float(((weight @ row + bias) - (new @ row[list(KEPT)] + shift)).square().sum())
    return total / len(ROWS)


@pytest.mark.parametrize("how", ["none", "bias", "lstsq"])
@pytest.mark.parametrize("parameters", [PARAMETERS, WITH_BIAS], ids=["plain", "with bias"])
def test_the_error_is_that_of_every_row(how: str, parameters: dict[str, Tensor]) -> None:
    found = compensate(SITE, ENTRY, SUMS, parameters, how)  # type: ignore[arg-type]
    # least squares are held back by a ridge: what it says may be off by that
    assert found.error == pytest.approx(lost(parameters, dict(found.updates)), rel=1e-9 if how != "lstsq" else 1e-2)
    expected = {"none": set(), "bias": {"ff.down.bias"}, "lstsq": {"ff.down.weight", "ff.down.bias"}}[how]
    assert found.updates.keys() == expected & (parameters.keys())


def test_each_kind_of_compensation_loses_less_than_the_one_before() -> None:
    errors = [compensate(SITE, ENTRY, SUMS, WITH_BIAS, how).error for how in ("none", "bias", "lstsq")]  # type: ignore[arg-type]
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2] > 0


def test_the_bias_takes_the_mean_of_what_is_gone() -> None:
    found = compensate(SITE, ENTRY, SUMS, WITH_BIAS, "bias")
    gone = [1, 4]
    shift = WITH_BIAS["ff.down.weight"][:, gone] @ ROWS[:, gone].mean(0)
    torch.testing.assert_close(found.updates["ff.down.bias"], WITH_BIAS["ff.down.bias"] + shift)


@pytest.mark.parametrize("implied", [True, False])
def test_scores_of_narrower_heads_are_those_of_the_dense_ones(implied: bool) -> None:
    """Queries and keys that have two dimensions only lose nothing when heads of four become heads of two."""
    site = attention(2, 4)
    names = ("q", "k", "v")
    parameters = {
        f"attn.{name}.weight": torch.cat(
            [random_weight(4, 2, 10 * number + head) @ random_weight(2, 6, 50 + 10 * number + head) for head in (0, 1)]
        )
        for number, name in enumerate(names)
    }
    parameters["attn.out.weight"] = random_weight(5, 8, 90)
    inputs, texts = random_weight(300, 6, 91), random_weight(200, 6, 92) * 2
    query, key, value = (
        (rows @ parameters[f"attn.{name}.weight"].T).reshape(-1, 2, 4).transpose(0, 1)
        for name, rows in (("q", inputs), ("k", texts), ("v", texts))
    )
    outputs = value.transpose(0, 1).reshape(-1, 8)
    sums = {
        COUNT: torch.tensor(200.0).double(),
        FIRST: outputs.sum(0),
        SECOND: outputs.T @ outputs,
        QUERY: query.transpose(1, 2) @ query,
        KEY: key.transpose(1, 2) @ key,
        KEY_FIRST: key.sum(1),
        KEY_COUNT: torch.tensor(200.0).double(),
    }
    found = compensate(site, SitePlan("attention", 2, (0, 1), 2), sums, parameters, implied_scale=implied)
    slim_query, slim_key = (
        (rows @ found.updates[f"attn.{name}.weight"].T).reshape(-1, 2, 2).transpose(0, 1)
        for name, rows in (("q", inputs), ("k", texts))
    )
    scores, slim = query @ key.transpose(1, 2), slim_query @ slim_key.transpose(1, 2)
    if implied:  # attention divides by the root of the width that it finds
        scores, slim = scores / 4**0.5, slim / 2**0.5
    # what is the same for all keys, the softmax doesn't see
    centred, slim_centred = (each - each.mean(2, keepdim=True) for each in (scores, slim))
    assert (slim_centred - centred).norm() <= 1e-4 * centred.norm()
    assert set(found.updates) == {f"attn.{name}.weight" for name in (*names, "out")}


def test_heads_are_not_removed_and_narrowed_at_once() -> None:
    sums = {COUNT: torch.tensor(9.0), FIRST: torch.zeros(8).double(), SECOND: torch.eye(8).double()}
    with pytest.raises(UsageError, match="not both"):
        compensate(
            attention(2, 4), SitePlan("attention", 2, (1,), 2), sums, {"attn.out.weight": random_weight(5, 8, 1)}
        )


@pytest.mark.parametrize("huge", [1e6, 10.0])
def test_half_precision_is_kept_where_it_holds_the_new_weights(huge: float) -> None:
    rows = ROWS + torch.tensor([0.0, huge, 0, 0, 0])
    sums = {COUNT: torch.tensor(400.0).double(), FIRST: rows.sum(0), SECOND: rows.T @ rows}
    halves = {name: value.half().float() for name, value in WITH_BIAS.items()}
    found = compensate(SITE, ENTRY, sums, halves, "bias").updates["ff.down.bias"]
    expected = halves["ff.down.bias"].double() + halves["ff.down.weight"][:, [1, 4]].double() @ rows[:, [1, 4]].mean(0)
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())
    fits = bool((expected.abs() < 65504).all())
    assert fits == (huge == 10.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3 if fits else 1e-6, atol=1e-3)
    assert torch.equal(found.half().float(), found) == fits
