"""What an adapter's matrices go through where weights were solved for."""

from __future__ import annotations

import pytest
import torch

from passes.calibrate.moments import COUNT, FIRST, KEY, KEY_COUNT, KEY_FIRST, QUERY, SECOND
from passes.plan.slim_plan import SitePlan
from passes.solve.adapter_maps import adapter_maps
from passes.solve.compensation import compensate
from passes.solve.projections import block_diagonal
from tests.covariances import TOKENS, attention, feed_forward, random_covariance, random_weight

HALF = {"rtol": 2e-3, "atol": 2e-3}  # maps of readers are kept in half precision


def _sums(site, seed):
    inputs = random_covariance(site.width, seed)
    second = inputs.matrix + torch.outer(inputs.mean, inputs.mean)
    sums = {COUNT: torch.tensor(float(TOKENS)), FIRST: TOKENS * inputs.mean, SECOND: TOKENS * second}
    if site.kind == "attention":
        each = [random_covariance(site.unit_width, seed + head).matrix for head in range(2 * site.units)]
        query, key = torch.stack(each).chunk(2)
        sums |= {QUERY: TOKENS * query, KEY: TOKENS * key, KEY_COUNT: torch.tensor(float(TOKENS))}
        sums[KEY_FIRST] = torch.zeros(site.units, site.unit_width, dtype=torch.float64)
    return sums, second


def _parameters(site, seed, *, bias=False):
    found = {f"{each.path}.weight": random_weight(site.width, 5, seed + n) for n, each in enumerate(site.writers)}
    found[f"{site.tap}.weight"] = random_weight(7, site.width, seed + 9)
    if bias:
        found[f"{site.tap}.bias"] = random_weight(7, 1, seed + 10)[:, 0]
    return found


def _lost(change, second, reproduced):
    lost = change - reproduced
    return float(torch.trace(lost @ second @ lost.T))


def test_refitting_fused_weights_is_refitting_and_mapping() -> None:
    site = feed_forward(9)
    entry = SitePlan("feed_forward", 9, (0, 2, 3, 5, 8))
    kept = entry.mask()
    sums, _ = _sums(site, 1)
    parameters, change = _parameters(site, 1), random_weight(7, 9, 20)
    cut = compensate(site, entry, sums, parameters)
    fused = compensate(site, entry, sums, {**parameters, "ff.down.weight": parameters["ff.down.weight"] + change})
    found = adapter_maps(site, entry, sums, cut)["ff.down"]
    mapped = change[:, kept] + change[:, ~kept] @ found.double()
    torch.testing.assert_close(fused.updates["ff.down.weight"] - cut.updates["ff.down.weight"], mapped, **HALF)


def test_with_a_bias_the_map_is_the_best_without_one() -> None:
    site = feed_forward(9)
    entry = SitePlan("feed_forward", 9, (0, 2, 3, 5, 8))
    kept = entry.mask()
    sums, second = _sums(site, 2)
    found = adapter_maps(site, entry, sums, compensate(site, entry, sums, _parameters(site, 2, bias=True)))["ff.down"]
    change = random_weight(7, 9, 21)

    def lost(gone):
        whole = torch.zeros(7, 9, dtype=torch.float64)
        whole[:, kept] = change[:, kept] + change[:, ~kept] @ gone
        return _lost(change, second, whole)

    best = lost(found.double())
    assert best < 0.9 * lost(torch.zeros_like(found).double())
    for seed in range(4):
        assert best < lost(found.double() + 0.02 * random_weight(*found.shape, seed))


def test_narrower_heads() -> None:
    site = attention(3, 4)
    entry = SitePlan("attention", 3, (0, 1, 2), 2)
    sums, second = _sums(site, 3)
    parameters = _parameters(site, 3)
    cut = compensate(site, entry, sums, parameters)
    maps = adapter_maps(site, entry, sums, cut)
    for path in ("attn.q", "attn.k", "attn.v"):
        assert maps[path].shape == (3, 2, 4)
        mapped = block_diagonal(maps[path].double()) @ parameters[f"{path}.weight"]
        torch.testing.assert_close(mapped, cut.updates[f"{path}.weight"], rtol=1e-5, atol=1e-5)
    features, back = block_diagonal(maps["attn.v"].double()), maps["attn.out"].double()
    assert back.shape == (12, 6)
    change = random_weight(7, 12, 22)
    best = _lost(change, second, change @ back @ features)
    assert best < 0.5 * _lost(change, second, torch.zeros_like(change))
    for seed in range(4):
        assert best < _lost(change, second, change @ (back + 0.05 * random_weight(12, 6, seed)) @ features)
    # the solved weights themselves go the same way
    weight = parameters["attn.out.weight"]
    torch.testing.assert_close(weight @ back, cut.updates["attn.out.weight"], rtol=0, atol=0.05)


@pytest.mark.parametrize("how", ["none", "bias"])
def test_kept_weights_need_no_map(how) -> None:
    site = feed_forward(6)
    entry = SitePlan("feed_forward", 6, (0, 1, 5))
    sums, _ = _sums(site, 4)
    cut = compensate(site, entry, sums, _parameters(site, 4, bias=True), how)
    assert adapter_maps(site, entry, sums, cut) == {}
