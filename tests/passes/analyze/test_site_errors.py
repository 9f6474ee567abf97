"""What sizes are expected to cost: held to what their weights do, and to what the prediction does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from passes.analyze.planner import Planner
from passes.analyze.site_errors import SiteErrors, ignore_progress, nearest
from passes.kinds.attention import ATTENTION
from passes.kinds.feed_forward import FEED_FORWARD
from passes.plan.policies import KeepParams, MaxError
from passes.sites.site import Site
from passes.solve.compensation import Compensated
from passes.solve.error_curves import Choice
from passes.solve.recipes import RECIPES, Method
from tests.covariances import attention, feed_forward
from tests.observed_block import observed_block
from tests.toy_block import site_of

METHODS: list[Method] = ["best", "slimdiff", "obs"]


def errors_of(method: Method) -> tuple[tuple[Site, ...], SiteErrors]:
    program, sites, statistics = observed_block()
    return sites, SiteErrors(program, sites, statistics, RECIPES[method], "lstsq")


@pytest.mark.parametrize("method", METHODS)
def test_no_size_does_worse_than_its_curve_says(method: Method) -> None:
    sites, errors = errors_of(method)
    for site in sites:
        curve = errors.curve(site)
        for choice in curve.choices[1:]:
            lost = errors.compensate(site, curve.entry(choice)).error
            assert 0 < lost <= choice.error * (1 + 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_whole_is_expected_to_cost_nothing(method: Method) -> None:
    sites, errors = errors_of(method)
    for site in sites:
        expected = errors.predict(site)
        assert expected[0] == 0
        assert all(each > 0 for each in expected[1:])
        assert expected == sorted(expected)


def test_a_curve_is_raised_to_what_weights_do_and_never_falls() -> None:
    sites, errors = errors_of("best")
    site = site_of(sites, "feed_forward")
    before = errors.curve(site)
    choice = before.choices[5]
    assert not errors.hold(site, before.choices[0])
    assert not errors.hold(site, choice)
    raised = before.raised(choice, before.choices[9].error)
    assert [each.error for each in raised.choices[:5]] == [each.error for each in before.choices[:5]]
    assert [each.error for each in raised.choices[5:10]] == [before.choices[9].error] * 5
    assert raised.choices[10:] == before.choices[10:]


@pytest.mark.parametrize("policy", [KeepParams(0.9), MaxError(1e-3)], ids=["budget", "error"])
def test_sizes_are_chosen_anew_where_weights_do_worse_than_was_expected(
    policy: KeepParams | MaxError, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, sites, statistics = observed_block()
    bad, solve = site_of(sites, "feed_forward"), FEED_FORWARD.compensate

    def plan() -> dict[str, int]:
        planner = Planner(program, sites, statistics, RECIPES["best"])
        by = planner.within_cost if isinstance(policy, KeepParams) else planner.within_error
        found = by(policy, {}, ignore_progress)  # type: ignore[arg-type]
        return {name: len(entry.kept) * (entry.width or 1) for name, entry in found.sites.items()}

    def worse(site: Site, *rest: object, **more: object) -> Compensated:
        cut = solve(site, *rest, **more)
        if site != bad or len(rest[0].kept) <= site.units // 2:  # type: ignore[attr-defined]
            return cut
        # above half of it, where no sensitivity is measured, weights turn out to be good for nothing
        return Compensated({name: 0 * value for name, value in cut.updates.items()}, 1e3)

    plain = plan()
    assert plain[bad.name] < bad.units
    kinds = {"attention": ATTENTION, "feed_forward": replace(FEED_FORWARD, compensate=worse)}
    monkeypatch.setattr("passes.analyze.site_errors.kind_of", kinds.__getitem__)
    held = plan()
    assert held[bad.name] > plain[bad.name]


def test_of_two_sizes_equally_near_the_larger_is_taken() -> None:
    heads = attention(1, 9)
    choices = [Choice(1, width or None, 0.0) for width in (0, 8, 7, 6, 5, 4, 3, 2, 1)]
    assert nearest(heads, choices, 1 / 2).width == 5
    assert nearest(heads, choices, 1 / 2 - 1e-16).width == 5
    assert nearest(heads, choices, 1 / 2 - 1e-3).width == 4
    neurons = [Choice(units, None, 0.0) for units in range(9, 0, -1)]
    assert nearest(feed_forward(9), neurons, 1 - (1 - 1 / 2 + 1e-16)).units == 5
