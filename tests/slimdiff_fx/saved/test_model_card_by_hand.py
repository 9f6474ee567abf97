"""The card and the report, part by part: each figure of its own, each part left out where nothing is known of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from passes.plan.slim_plan import SlimPlan
from passes.prove.validate import ValidationReport
from slimdiff_fx.saved.model_card import model_card
from slimdiff_fx.saved.report import build_report
from slimdiff_fx.saved.summary import SiteSummary, Summary
from slimdiff_fx.slimming.result import SlimResult

SUMMARY = {
    "params": 2_000,
    "params_kept": 1_500,
    "site_params": 800,
    "site_params_kept": 200,
    "macs": 90_000,
    "macs_kept": 60_000,
}


class _Pipe:
    """As much of a pipeline as a card looks at."""

    def __init__(self, origin: str = "") -> None:
        self.config = {"_name_or_path": origin}


class TextToImage(_Pipe):
    def __call__(self, prompt: str) -> None: ...


class Inpainting(_Pipe):
    def __call__(self, prompt: str, image: object, mask_image: object) -> None: ...


class ByClass(_Pipe):
    def __call__(self, class_labels: int) -> None: ...


class Unconditional(_Pipe):
    def __call__(self, batch_size: int) -> None: ...


def card(pipe: Any = None, *, source: Path | None = None, picture: str | None = None, **report: Any) -> ModelCard:
    whole = {"summary": SUMMARY, "policy": {}, **report}
    return ModelCard(model_card(pipe or TextToImage(), whole, source=source, picture=picture))


@pytest.mark.parametrize(
    ("pipe", "task"),
    [
        (TextToImage, "text-to-image"),
        (Inpainting, "image-to-image"),
        (ByClass, "unconditional-image-generation"),
        (Unconditional, "unconditional-image-generation"),
    ],
)
def test_the_front_matter(pipe: type[_Pipe], task: str) -> None:
    data = card(pipe()).data.to_dict()
    assert data == {
        "library_name": "diffusers",
        "pipeline_tag": task,
        "tags": ["diffusers", "slimdiff_fx", "pruning", pipe.__name__],
    }


def test_where_it_came_from() -> None:
    of_the_report = card(TextToImage("other/name"), model="owner/model-1.0")
    assert of_the_report.data.base_model == "owner/model-1.0"
    assert "# model-1.0, slimmed" in of_the_report.text
    assert "[owner/model-1.0](https://huggingface.co/owner/model-1.0)" in of_the_report.text
    assert card(TextToImage("other/name")).data.base_model == "other/name"
    for unknown in ("a", "./a", "a/b/c", "/a/b", ".hidden/name", ""):
        bare = card(TextToImage(unknown), model=unknown)
        assert bare.data.base_model is None
        assert "# TextToImage, slimmed" in bare.text
        assert "The denoiser of a diffusers pipeline with" in bare.text


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# Dense\n", "mit"),
        ("---\nlicense: [mit, other]\n---\n# Dense\n", None),
        ("# Dense\n", None),
        (None, None),
    ],
)
def test_the_licence_is_the_dense_pipeline_s(tmp_path: Path, text: str | None, licence: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert card(source=tmp_path).data.license == licence


def test_the_picture_is_there_or_not() -> None:
    assert "![dense left, slim right, from the same seeds](p.png)\n\n## How to load it" in card(picture="p.png").text
    assert "![" not in card().text
    assert "as it was.\n\n## How to load it" in card().text


def test_the_table_has_each_figure_in_its_place() -> None:
    lines = card().text.splitlines()
    start = lines.index("| | dense | slim | kept |")
    assert lines[start : start + 5] == [
        "| | dense | slim | kept |",
        "|---|---|---|---|",
        "| weights of the denoiser | 2,000 | 1,500 | 75.0% |",
        "| of them in attention and feed-forwards | 800 | 200 | 25.0% |",
        "| multiply-adds of one forward | 90,000 | 60,000 | 66.7% |",
    ]
    without = card(summary={**SUMMARY, "site_params": 0, "site_params_kept": 0}).text
    assert "of them in attention" not in without
    assert "weights of the denoiser" in without


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({}, "Planned by the method `a plan of its own`."),
        ({"method": "best", "max_error": 1.24e-3}, "`best`, a relative squared error of at most 1.2e-03 expected."),
        ({"method": "threshold", "tau": 0.05}, "the method `threshold`, τ = 0.05."),
        ({"method": "threshold", "tau": 0.0}, "the method `threshold`, τ = 0.0."),
        (
            {"method": "best", "budget": {"params": 0.5, "macs": 0.25}},
            "`best`, 50% of the params kept, 25% of the macs kept.",
        ),
        ({"method": "obs", "budget": None}, "the method `obs`."),
    ],
)
def test_how_it_was_planned(policy: dict[str, Any], words: str) -> None:
    assert words in card(policy=policy).text


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        ({}, ["Nothing was measured."]),
        (
            {"predicted": None, "measured": {}, "validation": None, "latency": None},
            ["Nothing was measured."],
        ),
        (
            {"predicted": {"relative_mse": 0.0}},
            ["- relative squared error of the prediction, expected: 0.0e+00"],
        ),
        (
            {"measured": {"relative_mse": 3.4e-4, "prompts": 6}},
            ["- measured while the dense model drew 6 pictures: 3.4e-04"],
        ),
        (
            {"pictures": {"psnr_db": [21.5, None, 30.5], "mean_psnr_db": 26.0}},
            ["- PSNR of slim pictures against dense ones: 26.0 dB (mean of 2 pictures; 1 more is equal)"],
        ),
        (
            {"validation": {"relative_error": 7e-7, "dtype": "float64"}},
            ["- slim against the dense model with the removed parts at zero: 7.0e-07 in float64"],
        ),
        (
            # The medians say that slim is slower, the turns that it is faster: those count.
            {"latency": {"backend": "ort", "threads": 3, "dense_ms": 20.26, "slim_ms": 21.0, "measured": 0.495}},
            ["- latency on ort, 3 threads: 20.3 ms dense, 10.0 ms slim"],
        ),
    ],
)
def test_what_was_measured(report: dict[str, Any], lines: list[str]) -> None:
    text = card(**report).text
    part = text.split("## What was measured\n\n")[1].split("\n\nAll figures")[0]
    assert part.splitlines() == lines


@dataclass(frozen=True)
class _Latency:
    backend: str
    threads: int
    measured: float
    dense_ms: float
    slim_ms: float


def _result(**changes: Any) -> SlimResult:
    site = SiteSummary("mid", "attention", 4, 3, 8, 8, 400, 300, 4000, 3000)
    values = {
        "plan": SlimPlan({}, {}, {"method": "best"}, predicted={"relative_mse": 0.5}),
        "program": None,
        "model": None,
        "pipe": None,
        "summary": Summary((site,), 1000, 900, 20_000, 19_000),
        "validation": ValidationReport(3e-7, 1e-5, "float32", ("[2, 4]", "[1, 4]"), (1e-7, 3e-7)),
        "statistics": None,
    }
    return SlimResult(**{**values, **changes})


def test_the_report_of_everything() -> None:
    settings = {"conditions": ["a", "b", "a"], "images": ["one"], "steps": 5}
    result = _result(
        statistics=SimpleNamespace(settings=settings),
        latency=_Latency("ort", 2, 0.8, 2.5, 2.0),
        seconds={"capture": 1.23456},
    )
    report = build_report(result, model="owner/model")
    assert json.loads(json.dumps(report)) == report
    assert report["format"] == 1
    assert report["policy"] == {"method": "best"}
    assert report["predicted"] == {"relative_mse": 0.5}
    assert report["model"] == "owner/model"
    assert report["calibration"] == {"steps": 5, "distinct_conditions": 2}
    assert settings["conditions"] == ["a", "b", "a"]
    assert report["summary"]["params_kept"] == 900
    assert report["validation"] == {
        "relative_error": 3e-7,
        "tolerance": 1e-5,
        "dtype": "float32",
        "inputs": ["[2, 4]", "[1, 4]"],
    }
    assert report["latency"] == {"backend": "ort", "threads": 2, "measured": 0.8, "dense_ms": 2.5, "slim_ms": 2.0}
    assert report["headline"]["latency"] == {
        "dense_ms": 2.5,
        "slim_ms": 2.0,
        "ratio": 0.8,
        "where": "on ort, 2 threads",
    }
    assert (report["headline"]["params"], report["headline"]["params_kept"]) == (1000, 900)
    assert report["seconds"] == {"capture": 1.235}
    environment = report["environment"]
    assert environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["packages"].keys() >= {"slimdiff-fx", "diffusers", "safetensors"}
    assert environment["threads"] == torch.get_num_threads()


def test_the_report_of_nothing() -> None:
    report = build_report(_result(plan=SlimPlan({}, {}), validation=None))
    for name in ("predicted", "calibration", "validation", "latency"):
        assert report[name] is None, name
    assert report["policy"] == {}
    assert report["seconds"] == {}
