"""No expected error is below what written weights do: brute force over the very samples that moments were summed from.

Sums of squares over some tens of samples, taken in another order, agree to 1e-12 of what they are summed from.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.calibrate.moments import Covariance, covariance
from passes.names import COMPENSATIONS, Compensation
from passes.plan.slim_plan import SitePlan
from passes.solve.compensation import compensate
from passes.solve.error_curves import ErrorCurve, leverage_curve, removal_curve, width_curve
from passes.solve.reader import reader_inputs
from passes.solve.written import storage_share
from tests.sampled_site import SampledSite, sampled_attention, sampled_feed_forward

SAME = 1e-12  # of the output's energy
_COMMON = {"deadline": None, "derandomize": True}
ATTENTIONS = st.builds(
    sampled_attention,
    st.integers(0, 2**20),
    width=st.sampled_from([2, 4, 6]),
    queries=st.sampled_from([3, 40]),
    keys=st.sampled_from([1, 2, 23]),
    text=st.sampled_from([1, 3, 12]),
    bias=st.booleans(),
)
FEED_FORWARDS = st.builds(
    sampled_feed_forward,
    st.integers(0, 2**20),
    rows=st.sampled_from([4, 60]),
    rank=st.sampled_from([None, 1, 4]),
    twins=st.booleans(),
    dead=st.booleans(),
    bias=st.booleans(),
)


def inputs_of(case: SampledSite, *, published: bool) -> Covariance:
    sums = case.sums()
    return covariance(case.site, sums, centred=False) if published else reader_inputs(case.site, sums, case.parameters)


def energy_of(case: SampledSite) -> float:
    """Give the second moment of what the reader puts out, bias left out: what rounding is a share of."""
    out = case.hidden({}) @ case.parameters[f"{case.site.tap}.weight"].double().T
    return float((out.square().sum(1) * case.weights[0]).sum() / case.weights[0].sum())


def centred_energy_of(case: SampledSite, *, published: bool) -> float:
    weight, inputs = case.parameters[f"{case.site.tap}.weight"].double(), inputs_of(case, published=published)
    return float(torch.trace(weight @ inputs.matrix @ weight.T))


def brute_force(case: SampledSite, entry: SitePlan, *, published: bool) -> tuple[float, float]:
    """Give the error that is expected of a size, and the one its written weights have on the samples."""
    found = compensate(case.site, entry, case.sums(), case.parameters, as_published=published)
    error = case.output_error(entry, found.updates)
    if entry.width is not None:
        share = case.score_share(entry, found.updates, implied_scale=True, centred=not published)
        error = max(error, share * centred_energy_of(case, published=published))
    return found.error, error


def curve_of(case: SampledSite, *, published: bool, narrow: bool) -> ErrorCurve:
    weight, inputs = case.parameters[f"{case.site.tap}.weight"].double(), inputs_of(case, published=published)
    if narrow:
        return width_curve(case.site, weight, inputs, case.sums(), joint=not published)
    if published and case.site.kind == "feed_forward":
        return leverage_curve(case.site, weight, inputs)
    return removal_curve(case.site, weight, inputs)


@settings(max_examples=40, **_COMMON)
@given(case=ATTENTIONS, published=st.booleans())
def test_no_width_loses_more_than_is_expected(case: SampledSite, published: bool) -> None:
    curve, close = curve_of(case, published=published, narrow=True), SAME * energy_of(case)
    assert curve.choices[0].error == 0
    for choice in curve.choices[1:]:
        expected, error = brute_force(case, curve.entry(choice), published=published)
        assert error - close <= expected <= error * (1 + 1e-9) + close
        assert expected > 0
        assert error - close <= choice.error


@settings(max_examples=40, **_COMMON)
@given(case=ATTENTIONS | FEED_FORWARDS, published=st.booleans())
def test_no_removal_loses_more_than_is_expected(case: SampledSite, published: bool) -> None:
    curve, close = curve_of(case, published=published, narrow=False), SAME * energy_of(case)
    assert curve.choices[0].error == 0
    for choice in curve.choices[1:]:
        expected, error = brute_force(case, curve.entry(choice), published=published)
        assert error - close <= expected <= error * (1 + 1e-9) + close
        assert error - close <= choice.error
        assert curve.rounding <= choice.error


@settings(max_examples=30, **_COMMON)
@given(case=ATTENTIONS | FEED_FORWARDS, data=st.data(), how=st.sampled_from(COMPENSATIONS))
def test_any_units_and_any_compensation(case: SampledSite, data: st.DataObject, how: Compensation) -> None:
    kept = data.draw(st.sets(st.integers(0, case.site.units - 1), min_size=1))
    entry = SitePlan(case.site.kind, case.site.units, tuple(sorted(kept)))
    found = compensate(case.site, entry, case.sums(), case.parameters, how)
    error, close = case.output_error(entry, found.updates), SAME * energy_of(case)
    assert error - close <= found.error <= error * (1 + 1e-9) + close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("published", [False, True])
def test_weights_are_counted_as_they_are_rounded(dtype: torch.dtype, published: bool) -> None:
    """To a share of storage's own rounding: of what enters the value linear, calibration knows no moments."""
    for seed in range(6):
        for case, width in (
            (sampled_attention(seed, heads=2, width=8, text=3, dtype=dtype), 3),  # free but for rounding
            (sampled_attention(seed, heads=2, width=8, text=12, dtype=dtype), 5),
        ):
            entry = SitePlan("attention", 2, (0, 1), width)
            expected, error = brute_force(case, entry, published=published)
            stored = torch.finfo(torch.float16 if dtype == torch.float32 else dtype).eps ** 2 / 12
            assert error - stored * energy_of(case) <= expected <= 2 * error + 4 * stored * energy_of(case)
        whole = sampled_feed_forward(seed, rank=4, dtype=dtype)
        entry = SitePlan("feed_forward", 10, (0, 1, 2, 3, 4, 5))
        expected, error = brute_force(whole, entry, published=published)
        assert expected == pytest.approx(error, rel=1e-9)
        assert expected > 1e-9 * torch.finfo(dtype).eps * energy_of(whole)


def test_what_storage_rounds_away_is_a_share_of_the_weights() -> None:
    exact = torch.tensor([[3.0, 4.0], [0.0, 12.0]], dtype=torch.float64)
    maps = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    stored = exact + torch.tensor([[0.0, 0.0], [0.0, 1.3]], dtype=torch.float64)
    share = storage_share("v", maps, {"v.weight": exact}, {"v.weight": stored})
    assert share == pytest.approx(1.3**2 / 13**2)
    assert storage_share("v", maps, {"v.weight": exact}, {"v.weight": exact}) == 0


@pytest.mark.parametrize("published", [False, True])
def test_keys_of_few_channels_keep_what_was_not_sampled(published: bool) -> None:
    """Of 16 channels a head's keys fill 12 and the samples 4: as many as the width has room for stay as they were."""
    seen = sampled_attention(0, heads=2, width=16, keys=4, text=12)
    draw = torch.Generator().manual_seed(1)
    unseen = torch.randn(9, 12, generator=draw, dtype=torch.float64)
    weights = (seen.weights[0], torch.ones(9, dtype=torch.float64))
    other = SampledSite(seen.site, seen.parameters, (seen.inputs[0], unseen), torch.empty(40, 9), weights)
    lost = {}
    for width in (15, 8, 4):
        entry = SitePlan("attention", 2, (0, 1), width)
        updates = compensate(seen.site, entry, seen.sums(), seen.parameters, as_published=published).updates
        lost[width] = other.score_share(entry, updates, implied_scale=True, centred=False)
    # Without what was not sampled, 15 would lose as much as 4: two thirds, the part of 12 that 4 samples leave.
    assert lost[15] < 0.02
    assert lost[15] < lost[8] < lost[4]


def test_the_whole_width_is_exact_whatever_was_seen() -> None:
    for text in (1, 3, 12):
        case = sampled_attention(text, keys=2, text=text)
        site = case.site
        entry = SitePlan("attention", site.units, tuple(range(site.units)), site.unit_width - 1)
        maps = compensate(site, entry, case.sums(), case.parameters).maps
        assert all(math.isfinite(float(each.abs().max())) for each in maps.values())


def test_keys_that_are_all_the_same_have_no_scores_to_lose() -> None:
    case = sampled_attention(3, keys=1)
    entry = SitePlan("attention", 3, (0, 1, 2), 1)
    found = compensate(case.site, entry, case.sums(), case.parameters)
    assert case.score_share(entry, found.updates, implied_scale=True, centred=True) == 0
    assert found.error == pytest.approx(case.output_error(entry, found.updates), abs=SAME * energy_of(case))
