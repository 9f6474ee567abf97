"""Latency as a budget, on a clock that counts multiply-adds: predictions must be exact, and nothing be timed twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from passes.analyze.methods import analyze
from passes.errors import CheckpointError, UsageError
from passes.program.shapes import specialize
from passes.rewrite.site_program import signature, site_program
from passes.sites.find import find_sites, locate_all
from passes.solve.recipes import RECIPES, Method
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.latency.cache import VARIABLE, cache_folder
from slimdiff_fx.latency.measure import site_ratios
from slimdiff_fx.latency.outcome import expected_ratio, measure_latency
from slimdiff_fx.latency.sizes import nearest_half, sizes_timed
from slimdiff_fx.latency.table import Curve, measured_costs
from slimdiff_fx.latency.target import make_target
from slimdiff_fx.timing.bench import Effort, opened
from tests.observed_block import observed_block
from tests.plans import captured
from tests.synthetic_bench import OVERHEAD, pretend
from tests.toy_block import build, capture_block


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("gain", [1.0, 0.6])
def test_what_is_predicted_is_what_is_met(
    method: Method, gain: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, gain)
    program, sites, statistics = observed_block()
    policy = KeepLatency(0.9, "eager", cache=tmp_path, align=4 if gain != 1 else None)
    priced = measured_costs(policy, program, sites, narrow=RECIPES[method].heads == "narrow")
    plan = analyze(program, sites, statistics, priced, method=method)
    seen = measure_latency(policy, program, plan)
    assert seen.expected == expected_ratio(plan) <= 0.9
    assert seen.measured == pytest.approx(seen.expected, abs=2e-5)  # costs are whole nanoseconds, of 0.2 ms
    if method == "best":
        assert seen.measured > 0.85  # not more than was asked for


@pytest.mark.slow
def test_sizes_other_than_the_traced_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    program = captured("unet_sd15")
    sites, totals = find_sites(program), []
    for batch in (1, 4):
        policy = KeepLatency(0.9, "eager", batch=batch, tokens=5, cache=tmp_path)
        costs = measured_costs(policy, program, sites, narrow=True).table
        totals.append(costs.total)
        assert costs.record["inputs"][0][0] == batch
        assert costs.record["inputs"][2][1] == 5
    one, four = (total - OVERHEAD * 1e9 for total in totals)
    assert four == pytest.approx(4 * one, rel=1e-2)


@pytest.mark.slow
def test_equal_sites_are_timed_once_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend(monkeypatch)
    program = captured("unet_sd15")
    sites = find_sites(program)
    policy = KeepLatency(0.9, "eager", cache=tmp_path)
    first = measured_costs(policy, program, sites, narrow=True)
    assert [each.name for each in made].count("dense") == 1
    fixed = specialize(program)
    dense = {signature(site_program(fixed, site, nodes, site.units)) for site, nodes in locate_all(fixed).items()}
    alone = Counter(signature(each.program) for each in made if each.program.timestep is None)
    assert len(dense) < len(sites)
    # a dense site runs against its smaller sizes, and against the whole
    assert {text: count for text, count in alone.items() if text in dense} == dict.fromkeys(dense, 2)
    assert set(Counter(count for text, count in alone.items() if text not in dense)) == {1}
    made.clear()
    again = measured_costs(policy, program, sites, narrow=True)
    assert made == []
    assert again == first
    # whole heads are other sizes; what neurons cost is known
    measured_costs(policy, program, sites, narrow=False)
    assert not any(each.name.startswith("feed_forward") for each in made)
    assert any(each.name.startswith("attention") for each in made)


def test_the_cache_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    program, sites, _ = observed_block()
    measured_costs(KeepLatency(0.9, "eager", threads=2, cache=tmp_path), program, sites, narrow=True)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(f"eager-{torch.__version__.replace('+', '-')}-")
    assert "2-threads-float64" in file.name
    data = json.loads(file.read_text())
    assert data["environment"]["threads"] == 2
    assert data["environment"]["versions"]["torch"] == torch.__version__
    assert data["environment"]["hardware"]
    file.write_text(file.read_text()[:-40])
    with pytest.raises(CheckpointError, match="only a cache"):
        measured_costs(KeepLatency(0.9, "eager", threads=2, cache=tmp_path), program, sites, narrow=True)
    measured_costs(KeepLatency(0.9, "eager", threads=1, cache=tmp_path), program, sites, narrow=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_has_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "slimdiff-fx" / "latency"


def test_steps_of_a_curve_stay() -> None:
    curve = Curve((8, 16, 24, 32), (10, 30, 20, 40))
    assert [curve(channels) for channels in (1, 8, 12, 16, 20, 24, 28, 32)] == [10, 10, 20, 30, 25, 20, 30, 40]
    stepped = replace(curve, step=8)
    assert [stepped(channels) for channels in (1, 8, 9, 12, 16, 17, 20, 24, 25, 32)] == [
        *(10, 10, 30, 30, 30, 20, 20, 20, 40, 40)
    ]
    odd = Curve((16, 32, 40), (1, 2, 4), 16)
    assert [odd(channels) for channels in (3, 17, 33, 39, 40)] == [1, 2, 4, 4, 4]


@pytest.mark.parametrize("align", [None, 8, 16])
def test_sites_are_timed_where_they_are_offered(align: int | None) -> None:
    _, sites, _ = observed_block()
    for site in sites:
        for narrow in (True, False):
            sizes = sizes_timed(site, narrow, align)
            channels = [units * width for units, width in sizes]
            assert channels[0] == site.width
            assert channels == sorted(set(channels), reverse=True)
            assert all(each % (align or 1) == 0 or each == site.width for each in channels)
            assert nearest_half(site, narrow, align) in sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0}, "`KeepLatency` is 0"),
        ({"fraction": 0.5, "backend": "abacus"}, "no backend 'abacus'; choose one of eager"),
        ({"fraction": 0.5, "threads": 0}, r"`KeepLatency\.threads` is 0"),
        ({"fraction": 0.5, "align": 0}, "align is 0"),
    ],
)
def test_what_can_t_be_timed_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KeepLatency(**options)  # type: ignore[arg-type]


def test_a_size_that_the_program_holds_fixed_is_refused() -> None:
    program = capture_block(build())
    with pytest.raises(UsageError, match="can't be timed at 32"):
        make_target(program, None, {"height": 32})
    assert make_target(program, None, {"batch": 5}).fixed.args[0].shape[0] == 5


def test_a_plan_for_something_else_has_no_latency() -> None:
    program, sites, statistics = observed_block()
    plan = analyze(program, sites, statistics)
    assert expected_ratio(plan) is None
    with pytest.raises(UsageError, match="expects no latency"):
        measure_latency(KeepLatency(0.9, "eager"), program, plan)


@pytest.mark.parametrize("backend", ["eager", "ort"])
def test_a_real_runtime_times_a_site(backend: str) -> None:
    program = capture_block(build(dtype=torch.float32))
    site = next(site for site in find_sites(program) if site.kind == "feed_forward")
    target = replace(make_target(program, None, {"batch": 2}))
    with opened(backend, 1, Effort(2, 1, 0.0, 0.0)) as bench:
        before = torch.get_num_threads()
        found = dict(site_ratios(target, site, [(5, 1), (1, 1)], bench))
    assert before == 1
    assert set(found) == {5, 1}
    assert all(ratio > 0 for ratio in found.values())
