"""What is saved for the page is what the plan was made from, counted exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from passes.analyze import criteria
from passes.analyze.methods import analyze
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.calibrate.statistics import Statistics
from passes.plan.policies import Threshold
from passes.sites.site import Site
from slimdiff_fx.saved.folder import load_plan
from slimdiff_fx.slimming import site_analysis as module
from tests.toy_block import samples, toy


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple(json.loads((folder / name).read_text()) for name in ("analysis.json", "report.json"))  # type: ignore[return-value]


def test_it_is_small(slim_folders: dict[str, Path]) -> None:
    assert (slim_folders["best"] / "analysis.json").stat().st_size < 20_000


@pytest.mark.parametrize("method", ["best", "threshold"])
def test_histograms_hold_every_unit_once(slim_folders: dict[str, Path], method: str) -> None:
    analysis, report = _read(slim_folders[method])
    for site in report["summary"]["sites"]:
        counts = analysis["scores"]["sites"][site["name"]]
        assert sum(counts) == site["units"]
        assert len(counts) == len(analysis["scores"]["edges"]) - 1
        assert counts[-1] >= 1, "the largest score is 1"


@pytest.mark.parametrize("method", ["best", "threshold"])
def test_points_count_what_they_keep(slim_folders: dict[str, Path], method: str) -> None:
    analysis, report = _read(slim_folders[method])
    summary = report["summary"]
    for point in analysis["sweep"]["points"]:
        kept = sum(
            site["params"] * channels // (site["units"] * site["width"])
            for site, channels in zip(summary["sites"], point["kept"], strict=True)
        )
        assert point["params"] == summary["params"] - summary["site_params"] + kept
    whole = analysis["sweep"]["points"][0]
    assert (whole["params"], whole["macs"]) == (summary["params"], summary["macs"])
    params = [point["params"] for point in analysis["sweep"]["points"]]
    assert params == sorted(params, reverse=True)
    assert params[-1] < 0.9 * params[0]


def test_the_sweep_over_thresholds_holds_the_plans_own(slim_folders: dict[str, Path]) -> None:
    analysis, report = _read(slim_folders["threshold"])
    assert analysis["sweep"]["by"] == "tau"
    tau = Threshold(report["policy"]["tau"]).tau
    (point,) = (each for each in analysis["sweep"]["points"] if each["at"] == tau)
    assert (point["params"], point["macs"]) == (report["summary"]["params_kept"], report["summary"]["macs_kept"])
    plan = load_plan(slim_folders["threshold"] / "unet/slim_plan.json")
    widths = {site["name"]: site["width"] for site in report["summary"]["sites"]}
    assert point["kept"] == [len(plan.sites[name].kept) * width for name, width in widths.items()]


def test_expected_errors_grow_as_more_goes(slim_folders: dict[str, Path]) -> None:
    analysis, report = _read(slim_folders["best"])
    errors = [point["error"] for point in analysis["sweep"]["points"]]
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert analysis["curves"]["of"] == "prediction"
    for site in report["summary"]["sites"]:
        curve = analysis["curves"]["sites"][site["name"]]
        assert curve[0] == [site["units"] * site["width"], 0.0]
        assert [error for _, error in curve] == sorted(error for _, error in curve)
        assert len(curve) <= 25


def test_timesteps_have_a_row_where_something_ran(slim_folders: dict[str, Path]) -> None:
    analysis, _ = _read(slim_folders["best"])
    for rows in analysis["timesteps"]["sites"].values():
        assert len(rows) == 10
        seen = [row for row in rows if row is not None]
        assert len(seen) == 2, "two steps were run"
        assert all(0 <= low <= middle <= high for low, middle, high in seen)


def test_the_measured_sweep_has_the_chosen_plan_and_others(slim_folders: dict[str, Path]) -> None:
    analysis, report = _read(slim_folders["best"])
    measured = analysis["measured"]
    chosen, *others = measured["points"]
    assert chosen["at"] is None
    assert chosen["params"] == report["summary"]["params_kept"]
    assert chosen["relative_mse"] == pytest.approx(report["measured"]["relative_mse"], rel=1e-6)
    assert len(others) == 2
    errors = [point["relative_mse"] for point in sorted(others, key=lambda point: -point["params"])]
    assert 0 < errors[0] < errors[1]
    assert all(point["latency_ratio"] > 0 and point["slim_ms"] > 0 for point in measured["points"])


def test_a_criterion_without_a_statistic_of_its_own_is_shown_by_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    def loudness(site: Site, statistics: Statistics) -> Tensor:
        return statistics.mean(site.name, "square") / statistics.mean(site.name, "abs").square()

    known = {**criteria.CRITERIA, "loudness": criteria.Criterion("loudness", ("feed_forward",), loudness)}
    monkeypatch.setattr(criteria, "CRITERIA", known)
    monkeypatch.setattr(module, "CRITERIA", known)
    program, sites = toy()
    statistics = calibrate(instrument(program, sites), [((samples(2), torch.tensor(1)), {})])
    plan = analyze(program, sites, statistics, Threshold(0.2), method="threshold", criterion="loudness")
    found = module.site_analysis(program, sites, statistics, plan, criterion="loudness")
    assert found["timesteps"]["criterion"] == {"feed_forward": "mean_abs", "attention": "l2"}
