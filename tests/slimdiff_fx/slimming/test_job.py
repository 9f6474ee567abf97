"""One job behind three doors: the call, the stages and the command line go through the same steps."""

from __future__ import annotations

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import slimdiff_fx
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.threads import CHOSEN_BY
from slimdiff_fx.cli import app
from slimdiff_fx.commands.options.words import in_options
from slimdiff_fx.listener import Listener
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import Sampling
from slimdiff_fx.saved.folder import load_plan
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.planning import Planning
from tests.failing_command import refused, runner
from tests.toy_denoisers import FAMILIES

ROOT = Path(slimdiff_fx.__file__).parent
# What a step does, by the function that does it.
STEPS = {
    "passes.analyze.methods": {"analyze", "planner_for"},
    "passes.prove.validate": {"validate"},
    "passes.rewrite.rewrite": {"rewrite"},
    "slimdiff_fx.calibration.observe": {"observe_pipeline"},
    "slimdiff_fx.calibration.rehearse": {"rehearse"},
    "slimdiff_fx.denoisers.slim.reference": {"make_reference"},
    "slimdiff_fx.latency.refine": {"plan_within_latency"},
    "slimdiff_fx.pipelines.captured": {"capture_pipeline"},
}
# An export slims nothing, and a backend works on the graph that Dynamo hands it.
OTHERS = {"export_command.py", "while_compiling.py"}


def test_each_step_is_taken_in_one_file() -> None:
    taken = {}
    for file in sorted((*ROOT.glob("commands/*.py"), *ROOT.glob("slimming/*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                for name in STEPS.get(str(node.module), set()) & {each.name for each in node.names}:
                    taken.setdefault(name, []).append(file.name)
    assert {name: [file for file in files if file not in OTHERS] for name, files in taken.items()} == {
        name: ["job.py"] for names in STEPS.values() for name in names
    }


class Stages(Listener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    @contextmanager
    def stage(self, name):
        self.heard.append(name)
        yield

    @contextmanager
    def steps(self, name, total, done, unit, each=1):
        self.heard.append(name)
        yield


def test_the_call_and_the_stages_give_the_same_program() -> None:
    model = FAMILIES["dit"](0, torch.float64)
    program = slimdiff_fx.capture(model)
    batches = [(program.args, program.kwargs)] * 2
    policy = slimdiff_fx.KeepParams(0.9)
    result = slimdiff_fx.slim(model, batches=batches, policy=policy)

    prepared = slimdiff_fx.prepare(program)
    slimdiff_fx.calibrate(prepared, batches)
    plan = slimdiff_fx.analyze(prepared, policy=policy)
    slim = slimdiff_fx.convert(program, plan)
    assert plan.policy == result.plan.policy
    assert plan.sites == result.plan.sites
    # a matrix product rounds by where its operands lie in memory
    torch.testing.assert_close(slim(*program.args), result.program(*program.args), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def job(toy_pipeline):
    loaded = load_pipeline(str(toy_pipeline))
    samples = gather_samples(loaded.pipe, prompts=["red apple", "rose"], images=None, samples=2, seed=0)
    planning = Planning.asked(slimdiff_fx.KeepParams(0.9), None, None, None)
    return Job.capture(loaded.pipe, planning, samples, CalibrationSettings(Sampling(2, 3.0)), listener=Stages())


def test_steps_are_told_in_their_order_and_timed(job) -> None:
    result = job.finish(job.calibrate())
    assert job.listener.heard == ["capture", "calibrate", "analyze", "plan", "rewrite", "validate"]
    assert list(result.seconds) == ["capture", "calibrate", "analyze", "rewrite", "validate"]
    assert result.pipe is not None
    assert result.validation is not None


def test_the_call_and_the_commands_decide_alike(toy_pipeline, job, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(CHOSEN_BY, str(torch.get_num_threads()))
    slim = slimdiff_fx.slim(
        job.pipe, prompts=["red apple", "rose"], samples=2, steps=2, guidance=3.0, policy=slimdiff_fx.KeepParams(0.9)
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red apple\nrose\n")
    for line in (
        f"calibrate {toy_pipeline} -o {tmp_path / 's'} --prompts {prompts} --samples 2 --steps 2 --guidance 3",
        f"plan {toy_pipeline} --statistics {tmp_path / 's'} --keep-params 0.9 -o {tmp_path / 'plan.json'}",
    ):
        done = runner.invoke(app, line.split())
        assert done.exit_code == 0, done.output
    plan = load_plan(tmp_path / "plan.json")
    assert plan.policy == slim.plan.policy
    # sums may differ in their last digits, and a close choice with them
    assert plan.predicted["relative_mse"] == pytest.approx(slim.plan.predicted["relative_mse"], rel=1e-2)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "loudness"}, "--criterion loudness"),
        ({"method": "obs"}, "--method obs"),
        ({"sequential": 1}, "--sequential 1"),
        ({"method": "threshold", "sequential": 2}, "--method threshold --sequential 2"),
    ],
)
def test_the_call_and_the_commands_refuse_alike(toy_pipeline, tmp_path, options, words) -> None:
    pipe = load_pipeline(str(toy_pipeline)).pipe
    with pytest.raises(slimdiff_fx.SlimDiffError) as raised:
        slimdiff_fx.slim(pipe, prompts=["a"], **options)
    line = refused("slim", toy_pipeline, "-o", tmp_path / "out", *words.split())
    assert line == f"error: {in_options(str(raised.value))}"
