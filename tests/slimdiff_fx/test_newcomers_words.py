"""What a newcomer sees from Python: short reprs, one screen of help, a bar, and refusals in the API's words."""

from __future__ import annotations

import ast
import io
import pydoc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import slimdiff_fx
import slimdiff_fx.cli
from passes.arguments import check_kind
from passes.errors import CalibrationError, ExportError, SlimDiffError, UsageError
from slimdiff_fx.commands.options.words import in_options
from slimdiff_fx.slimming.progress_bar import BarListener

ROOT = Path(__file__).parents[2]
PROMPTS = ["mushroom", "watermelon", "pear"]


class Things:
    """A pipeline and everything that the API gives of it."""

    def __init__(self, folder: Path) -> None:
        self.pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self.unet = self.pipe.unet
        self.program = slimdiff_fx.capture(self.unet)
        self.prepared = slimdiff_fx.prepare(self.program)
        self.statistics = slimdiff_fx.calibrate(self.prepared, [(self.program.args, self.program.kwargs)])
        self.plan = slimdiff_fx.analyze(self.prepared, policy=slimdiff_fx.KeepParams(0.9))
        self.result = slimdiff_fx.slim(
            self.pipe, prompts=PROMPTS, samples=np.int64(3), steps=2, policy=slimdiff_fx.KeepParams(0.9)
        )

    def slim(self, **arguments: Any) -> Any:
        return slimdiff_fx.slim(self.pipe, **{"prompts": PROMPTS, "samples": 2, "steps": 2, **arguments})


@pytest.fixture(scope="module")
def things(toy_pipeline: Path) -> Things:
    return Things(toy_pipeline)


Call = Callable[[Things], Any]
REFUSED: dict[str, tuple[Call, type[SlimDiffError], str]] = {
    "a text for prompts": (lambda t: t.slim(prompts="a red apple"), UsageError, r"`prompts` is one text; .*\[prompt\]"),
    "no prompts": (lambda t: t.slim(prompts=[]), UsageError, "give `prompts` or `images`"),
    "a number for a prompt": (lambda t: t.slim(prompts=[1]), UsageError, "prompt 0 is 1"),
    "a share for a policy": (lambda t: t.slim(policy=0.8), UsageError, r"`policy` is 0\.8; .*KeepParams\(0\.8\)"),
    "a class for a policy": (lambda t: t.slim(policy=slimdiff_fx.MaxError), UsageError, "the class MaxError"),
    "a share for analyze": (lambda t: slimdiff_fx.analyze(t.prepared, policy=0.9), UsageError, r"KeepParams\(0\.9\)"),  # type: ignore[arg-type]
    "a text for a share": (lambda t: slimdiff_fx.KeepParams("0.9"), UsageError, r"`KeepParams` is '0\.9'"),  # type: ignore[arg-type]
    "more than all": (lambda t: slimdiff_fx.KeepMacs(2), UsageError, "`KeepMacs` is 2"),
    "latency": (lambda t: slimdiff_fx.KeepLatency(0.9, batch=0), UsageError, r"`KeepLatency\.batch` is 0"),
    "an error": (lambda t: slimdiff_fx.MaxError(-1), UsageError, "`MaxError` is -1"),
    "a threshold": (lambda t: slimdiff_fx.Threshold(7), UsageError, "`Threshold` is 7"),
    "capture of a pipeline": (
        lambda t: slimdiff_fx.capture(t.pipe),
        UsageError,
        "of class StableDiffusionPipeline; .*pipe.unet",
    ),
    "capture of nothing": (lambda t: slimdiff_fx.capture(None), UsageError, "`model` is None"),  # type: ignore[arg-type]
    "a name for a pipeline": (lambda t: slimdiff_fx.slim("emoji", prompts=PROMPTS), UsageError, "the text 'emoji'"),  # type: ignore[arg-type]
    "half a sample": (lambda t: t.slim(samples=2.5), UsageError, r"`samples` is 2\.5; give a whole number"),
    "a text for samples": (lambda t: t.slim(samples="16"), UsageError, "`samples` is '16'"),
    "a truth for samples": (lambda t: t.slim(samples=True), UsageError, "`samples` is True"),
    "no steps": (lambda t: t.slim(steps=0), UsageError, "`steps` is 0"),
    "no batch": (lambda t: t.slim(batch=-1), UsageError, "`batch` is -1"),
    "half a seed": (lambda t: t.slim(seed=1.5), UsageError, r"`seed` is 1\.5"),
    "a method": (lambda t: t.slim(method="bset"), UsageError, "'bset'; there are best"),
    "prepare of a model": (
        lambda t: slimdiff_fx.prepare(t.unet),
        UsageError,
        "of class UNet2DConditionModel; .*capture",
    ),
    "calibrate of a program": (lambda t: slimdiff_fx.calibrate(t.program, []), UsageError, "prepare"),  # type: ignore[arg-type]
    "no batches": (lambda t: slimdiff_fx.calibrate(slimdiff_fx.prepare(t.program), []), CalibrationError, "no batches"),
    "batches that are no pairs": (lambda t: slimdiff_fx.calibrate(t.prepared, [t.program.args]), UsageError, "batch 1"),  # type: ignore[list-item]
    "analyze of a program": (lambda t: slimdiff_fx.analyze(t.program), UsageError, "prepare"),  # type: ignore[arg-type]
    "convert of a model": (lambda t: slimdiff_fx.convert(t.unet, t.plan), UsageError, "capture"),
    "convert by nothing": (lambda t: slimdiff_fx.convert(t.program, None), UsageError, "`plan` is None"),  # type: ignore[arg-type]
    "lower of a model": (lambda t: slimdiff_fx.lower(t.unet), UsageError, "`program` is"),
    "a pipeline for apply_plan": (lambda t: slimdiff_fx.apply_plan(t.pipe, t.plan), UsageError, "pipe.unet"),
    "a result for apply_plan": (lambda t: slimdiff_fx.apply_plan(t.unet, t.result), UsageError, "result.plan"),
    "a model for ONNX": (lambda t: slimdiff_fx.export_onnx(t.unet, "x.onnx"), UsageError, "result.program"),
    "a number for a path": (lambda t: slimdiff_fx.export_onnx(t.program, 5), UsageError, "`path` is 5"),  # type: ignore[arg-type]
    "a word for a dtype": (
        lambda t: slimdiff_fx.export_onnx(t.program, "x.onnx", dtype="fp16"),  # type: ignore[arg-type]
        ExportError,
        r"dtype=torch\.float32",
    ),
    "a model for pt2": (lambda t: slimdiff_fx.export_pt2(t.unet, "x.pt2"), UsageError, "result.program"),
    "no plan to compile by": (lambda t: slimdiff_fx.compile_backend(None), UsageError, "`plan` is None"),  # type: ignore[arg-type]
    "a model for a plan": (lambda t: slimdiff_fx.slice_lora({}, t.unet), UsageError, "result.plan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_in_the_api_s_words(things: Things, name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        call(things)
    assert " --" not in f" {caught.value}", "options are the command line's"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["program", "prepared", "statistics", "plan", "result"])
def test_what_the_api_gives_is_shown_in_a_few_lines(things: Things, name: str) -> None:
    shown = repr(getattr(things, name))
    assert len(shown) < 600
    assert len(shown.splitlines()) == (5 if name == "result" else 1)


def test_a_result_says_what_came_of_it_in_notebooks_too(things: Things) -> None:
    found = things.result
    lines = repr(found).splitlines()
    assert lines[0] == "SlimResult: SlimUNet2DConditionModel in StableDiffusionPipeline, by best"
    assert re.fullmatch(r"  parameters +[\d.]+k → [\d.]+k \(−1\d\.\d%\)", lines[1])
    assert f"{found.plan.predicted['relative_mse']:.1e} expected" in lines[3]
    assert f"{found.validation.relative_error:.1e}" in lines[4]
    assert found._repr_html_().count("<tr>") == 4
    assert "by best" in found._repr_html_()


def test_help_fits_on_two_screens_and_has_every_function() -> None:
    text = pydoc.render_doc(slimdiff_fx, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert len(text.splitlines()) <= 80
    for name in slimdiff_fx.__all__:
        assert name in text or name == "ModelMixin", name
    assert "samples" in pydoc.render_doc(slimdiff_fx.slim, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert set(dir(slimdiff_fx)) == set(slimdiff_fx.__all__), "completion goes on"


@pytest.mark.parametrize(
    ("config", "argument", "bars"), [({}, True, True), ({}, False, False), ({"disable": True}, True, False)]
)
def test_slim_shows_a_bar_unless_bars_are_off(
    things: Things, capsys: pytest.CaptureFixture[str], config: dict[str, Any], argument: bool, bars: bool
) -> None:
    things.pipe._progress_bar_config = config
    try:
        things.slim(progress=argument, policy=slimdiff_fx.KeepParams(0.95))
    finally:
        things.pipe.set_progress_bar_config(disable=True)
    captured = capsys.readouterr()
    assert ("calibrate: 100%" in captured.err) == bars
    assert ("2/2 samples" in captured.err) == bars
    assert captured.out == ""


def test_bars_of_stages_in_stages_close_and_count_their_own_units() -> None:
    out = io.StringIO()
    listener = BarListener({"file": out, "mininterval": 0})
    with listener.stage("analyze"):
        with listener.steps("plan", 12, 4, "sites", each=4):
            listener.advance(4)
            listener.note("a note")
            listener.advance(4)
        listener.advance(1)
    assert "3/3 sites" in out.getvalue()
    assert "2/3 sites" in out.getvalue()
    assert "note: a note" in out.getvalue()
    assert listener._bar is None


def test_the_command_line_says_the_same_of_options() -> None:
    said = 'give `observe_steps` or `KeepParams`, `method="threshold"`, `KeepLatency.batch` or `overwrite=True`'
    assert (
        in_options(said) == "give --observe-steps or --keep-params, --method threshold, --latency-batch or --overwrite"
    )
    for other in ("`slimdiff-fx inspect` says why", "`torch.compile` it", "`policy` is 0.9", "no quotes: steps"):
        assert in_options(other) == other


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (0.5, "0.5"),
        ("x" * 99, f"the text '{'x' * 40}'"),
        (int, "the class int"),
        ([], "of class list"),
        (OSError(), "of class OSError"),
    ],
)
def test_what_was_given_is_named(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"`name` is {words}; give a dict")):
        check_kind("name", value, dict, "a dict")


# Where options are: these are the command line, or speak of commands to be typed.
COMMAND_LINE = re.compile(r"slimdiff_fx/(cli|commands/[\w/]+|saved/page/missing|calibration/ranks|export/tensorrt)\.py")


def test_no_message_of_the_library_names_an_option() -> None:
    found = []
    for file in sorted([*(ROOT / "passes").rglob("*.py"), *(ROOT / "slimdiff_fx").rglob("*.py")]):
        name = file.relative_to(ROOT).as_posix()
        if COMMAND_LINE.fullmatch(name):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found += [f"{name}: {node.value}"] if re.search(r"(^|[ (\"'])--[a-z]", node.value) else []
    assert found == []
