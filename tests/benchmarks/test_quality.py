"""The quality benchmark at toy size: every contestant is proved, cells resume, figures say what they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.quality import grid
from benchmarks.quality.agreement import train_agreement
from benchmarks.quality.arena import Arena, Scale, enter, open_arena
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.features import as_tensor, distances, likeness
from benchmarks.quality.prediction_error import prediction_error, record_trajectory
from benchmarks.quality.report import tables, values, write_report
from benchmarks.quality.showcase import draw_showcase
from benchmarks.quality.torch_pruning_l1 import removal_scores
from benchmarks.uniform_plan import plan_uniformly
from passes.plan.costs import program_macs, program_params
from passes.plan.policies import Keep, KeepMacs, KeepParams, Policy
from passes.plan.slim_plan import SlimPlan
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites
from slimdiff_fx.saved.pictures import Comparison, mean_psnr
from tests.toy_block import build, capture_block, site_of, toy

SCALE = Scale(samples=4, steps=2, prompts=2, timesteps=2, pictures=2, picture_steps=2)


@pytest.fixture(scope="module")
def arena(toy_pipeline: Path) -> Arena:
    return open_arena(str(toy_pipeline), SCALE)


@pytest.mark.slow
@pytest.mark.parametrize("method", CONTESTANTS)
def test_every_contestant_meets_the_budget_and_is_proved(arena: Arena, method: str) -> None:
    entry = enter(arena, CONTESTANTS[method].make(arena, 0.3, 0))
    assert entry.validation < 1e-5  # fp32
    # whole heads of four are coarse
    assert 0.4 < entry.weights_kept <= 0.7 + 1e-9
    assert entry.macs_kept < 1


@pytest.mark.slow
def test_the_dense_model_has_no_error_along_its_trajectory(arena: Arena) -> None:
    calls = record_trajectory(arena, arena.held_out, 5)
    assert len(calls) == SCALE.timesteps
    error, by_timestep = prediction_error(arena.captured.model, calls)
    assert error == 0
    assert len(by_timestep) == SCALE.timesteps
    slim = enter(arena, CONTESTANTS["random"].make(arena, 0.5, 0))
    assert prediction_error(slim.model, calls)[0] > 0


@pytest.mark.parametrize("policy", [KeepParams(0.8), KeepMacs(0.85)])
def test_the_same_share_of_each_site_goes(policy: Policy) -> None:
    program, sites = toy()
    scores = {site.name: torch.arange(site.units, dtype=torch.float64) for site in sites}
    assert isinstance(policy, Keep)
    plan = plan_uniformly(program, sites, scores, policy)
    size = program_params if isinstance(policy, KeepParams) else program_macs
    assert size(rewrite(program, plan)) <= policy.fraction * size(program)
    for site in sites:
        kept = plan.sites[site.name].kept
        assert kept == tuple(range(site.units - len(kept), site.units))


def test_torch_pruning_takes_the_smallest_first() -> None:
    block = build()
    with torch.no_grad():
        for unit, factor in ((7, 1e-3), (2, 1e-2)):
            block.feed_forward.up.weight[[unit, unit + 10]] *= factor
            block.feed_forward.down.weight[:, unit] *= factor
        for linear in (block.attention.to_q, block.attention.to_k, block.attention.to_v):
            linear.weight[4:8] *= 1e-3
        block.attention.to_out.weight[:, 4:8] *= 1e-3
    program = capture_block(block)
    sites = find_sites(program)
    turns = removal_scores(program)
    assert turns[site_of(sites, "feed_forward").name].argsort()[:2].tolist() == [7, 2]
    assert int(turns[site_of(sites, "attention").name].argmin()) == 1


def cell(method: str, removed: float, seed: int, error: float) -> dict[str, Any]:
    figures = {"relative_mse": error, "psnr": 30.0, "ssim": 0.9, "kid": 0.0, "fid": 1.0, "agreement": 0.2}
    kept = {"weights_kept": 1 - removed, "macs_kept": 1 - removed / 3}
    return {"method": method, "removed": removed, "seed": seed, **kept, **figures}


def results() -> dict[str, Any]:
    cells = [
        cell(method, removed, seed, removed * (seed + 1) * scale)
        for method, scale in (("best", 1e-3), ("random", 1.0))
        for removed in (0.15, 0.3)
        for seed in (0, 1)
    ]
    floor = {"kid": 0.0, "fid": 2.0, "agreement": 0.19}
    return {"cells": cells, "bounds": {"0": {"floor": floor}, "1": {"floor": floor}}}


def test_tables_have_means_and_spreads_in_a_fixed_order() -> None:
    lines = tables(results()).splitlines()
    assert lines[0] == "| method | 15% | 30% |"
    assert lines[2].startswith("| random | 0.22 ± 0.11 | 0.45 ± 0.21 |")
    assert lines[3].startswith("| best | 0.00022 ± 0.00011 |")
    assert any(line.startswith("| *dense, other noise* | – | – |") for line in lines)
    assert values(results(), "best", 0.3, "psnr") == [30.0, 30.0]


def test_the_report_fills_the_page_and_draws(tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    page.write_text("before\n<!-- quality:begin -->\nold\n<!-- quality:end -->\nafter\n")
    for name in ("dense", "best-0.3", "random-0.3"):
        folder = tmp_path / "kept" / (f"quality-{name}-0")
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / "0.png")
    write_report(results(), pictures=tmp_path / "kept", into=tmp_path / "figures", page=page)
    text = page.read_text()
    assert text.startswith("before\n<!-- quality:begin -->\n| method")
    assert text.endswith("<!-- quality:end -->\nafter\n")
    assert "old" not in text
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {"quality-curves.png", "quality-30.png"}


def test_finished_cells_are_skipped_and_other_settings_start_anew(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    wanted = list(grid.cells(["random", "best"], [0.15, 0.3], range(2)))
    assert len(wanted) == 8
    fresh = grid.read_results(file, "emoji", SCALE)
    assert grid.missing(fresh, iter(wanted)) == wanted
    fresh["cells"] = results()["cells"][:3]
    file.write_text(json.dumps(fresh))
    again = grid.read_results(file, "emoji", SCALE)
    assert len(grid.missing(again, iter(wanted))) == 5
    assert grid.read_results(file, "emoji", Scale())["cells"] == []
    assert grid.read_results(file, "other", SCALE)["cells"] == []


def test_distances_and_likeness_of_equal_pictures() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    assert likeness(pictures, pictures) == {"psnr": 100.0, "ssim": pytest.approx(1)}
    assert likeness(pictures, 255 - pictures)["psnr"] < 10
    half = torch.cat([pictures[:2], 255 - pictures[2:]])
    one, other = ([Image.fromarray(each.permute(1, 2, 0).numpy()) for each in every] for every in (pictures, half))
    of_reports = mean_psnr(Comparison(("",) * 4, tuple(one), tuple(other)).psnr())
    assert likeness(pictures, half)["psnr"] == pytest.approx(of_reports, rel=1e-9), "as reports have it"
    features = torch.randn(8, 1280)
    same, far = distances(features, features), distances(features, features + 3)
    assert same["fid"] == pytest.approx(0, abs=1e-2)
    assert far["fid"] > 100
    assert far["kid"] > same["kid"]
    assert as_tensor([Image.new("RGB", (4, 6), (1, 2, 3))]).shape == (1, 3, 6, 4)


def test_agreement_is_learned_where_there_is_any() -> None:
    torch.manual_seed(0)
    shared = torch.randn(300, 12)
    pictures, texts = shared @ torch.randn(12, 40), shared @ torch.randn(12, 20)
    heads = train_agreement(pictures[:250], texts[:250], steps=120)
    found = heads.score(pictures[250:], texts[250:])
    assert found["r_at_1"] > 0.5
    assert found["agreement"] > 0.5 > found["agreement_shuffled"]
    assert heads.score(pictures[250:], torch.randn(50, 20))["r_at_1"] < 0.2


@pytest.mark.slow
def test_plans_are_json(arena: Arena) -> None:
    plan = CONTESTANTS["best"].make(arena, 0.3, 0)
    assert SlimPlan.from_json(plan.to_json(), plan.tensors()).to_json() == plan.to_json()


@pytest.mark.slow
def test_the_showcase_has_dense_above_slim(arena: Arena, tmp_path: Path) -> None:
    unet = arena.loaded.pipe.unet
    draw_showcase(arena, tmp_path / "new" / "shown.png", removed=0.3)
    assert arena.loaded.pipe.unet is unet
    picture = Image.open(tmp_path / "new" / "shown.png")
    half = picture.height // 2
    above, below = (picture.crop((0, top, picture.width, top + half)) for top in (0, half))
    assert above.tobytes() != below.tobytes()
