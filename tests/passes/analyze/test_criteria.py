"""Criteria: which statistic scores which kind, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from passes.analyze import criteria
from passes.analyze.criteria import CRITERIA, Criterion, choose, needs_attention_weights, score
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.errors import CalibrationError, UsageError
from passes.sites.site import Site
from tests.sites import linear_site
from tests.toy_block import samples, site_of, toy

HEADS = linear_site("x.attn", "attention", 3, 4, ("q", "k", "v"), "out")
NEURONS = linear_site("x.ff", "feed_forward", 2, 1, ("up",), "down")


def table(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


STATISTICS = Statistics(
    {
        "x.attn": {
            "l1": table([[2, 4, 6], [2, 4, 6]]),
            "l2": table([[3, 0, 3], [1, 0, 3]]),
            "entropy": table([[0, 1, 2], [0, 0, 0]]),
            "confidence": table([[4, 2, 1], [0, 0, 0]]),
            "count": torch.tensor([1.0, 3.0]).double(),
        },
        "x.ff": {"abs": table([[1, 2], [1, 6]]), "square": table([[1, 4], [2, 9]]), "count": torch.tensor([1.0, 3.0])},
    },
    samples=4,
    calls=2,
    timesteps=1000.0,
    fingerprint={},
)


@pytest.mark.parametrize(
    ("criterion", "heads", "neurons"),
    [
        (None, [1, 0, 1.5], [0.5, 2]),
        ("l2", [1, 0, 1.5], [0.5, 2]),
        ("l1", [1, 2, 3], [0.5, 2]),
        ("entropy", [0, 0.25, 0.5], [0.5, 2]),
        ("confidence", [1, 0.5, 0.25], [0.5, 2]),
        (["mean_square", "l1"], [1, 2, 3], [0.75, 3.25]),
        (lambda site, statistics: torch.arange(site.units), [0, 1, 2], [0, 1]),
    ],
)
def test_scores_are_means_over_everything(criterion: object, heads: list[float], neurons: list[float]) -> None:
    scores = score([HEADS, NEURONS], STATISTICS, criterion)  # type: ignore[arg-type]
    assert {name: values.tolist() for name, values in scores.items()} == {"x.attn": heads, "x.ff": neurons}
    assert all(values.dtype == torch.float64 for values in scores.values())


def test_criteria_are_chosen_by_kind() -> None:
    assert choose() == choose([]) == {"feed_forward": "mean_abs", "attention": "l2"}
    with pytest.raises(UsageError, match="unknown criterion 'taylor'; there are feed_forward: mean_abs"):
        choose("taylor")
    with pytest.raises(UsageError, match="'l1' and 'entropy' are both for attention"):
        choose(["l1", "entropy"])


@pytest.mark.parametrize("values", [torch.ones(4), torch.tensor([1.0, float("nan"), 1.0]), torch.tensor([1.0, -1, 1])])
def test_senseless_scores_are_refused(values: torch.Tensor) -> None:
    with pytest.raises(CalibrationError, match=r"x\.attn"):
        score([HEADS], STATISTICS, lambda site, statistics: values)


def test_unmeasured_sites_are_refused() -> None:
    other = linear_site("y.ff", "feed_forward", 2, 1, ("up",), "down")
    with pytest.raises(UsageError, match=r"y\.ff"):
        score([other], STATISTICS)


@pytest.mark.parametrize("criterion", ["entropy", ["mean_square", "confidence"]])
def test_attention_weights_that_were_not_measured_are_asked_for(criterion: str | list[str]) -> None:
    assert needs_attention_weights(criterion)
    assert not needs_attention_weights(None)
    sums = {name: values for name, values in STATISTICS.sites["x.attn"].items() if name in ("l1", "l2", "count")}
    light = replace(STATISTICS, sites={**STATISTICS.sites, "x.attn": sums})
    score([HEADS, NEURONS], light)
    score([NEURONS], light, criterion)  # no attention, nothing missing
    with pytest.raises(UsageError, match="calibrate again with `attention_weights=True`"):
        score([HEADS, NEURONS], light, criterion)


def test_a_record_is_all_that_another_criterion_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by name, for its kind alone, scored, and refused beside another one of that kind."""

    def last_first(site: Site, statistics: Statistics) -> Tensor:
        return torch.arange(site.units)

    monkeypatch.setattr(criteria, "CRITERIA", {**CRITERIA, "last": Criterion("last", ("attention",), last_first)})
    assert choose("last") == {"feed_forward": "mean_abs", "attention": "last"}
    assert not needs_attention_weights("last")
    program, sites = toy()
    statistics = calibrate(instrument(program, sites), [((samples(2), torch.tensor(1)), {})])
    found = score(sites, statistics, "last")[site_of(sites, "attention").name]
    assert found.tolist() == [0.0, 1.0, 2.0]
    assert found.dtype == torch.float64
    with pytest.raises(UsageError, match="both for attention sites"):
        choose(["last", "l1"])
    with pytest.raises(UsageError, match="attention: l2, l1, entropy, confidence, last;"):
        choose("first")
