"""Calibration through the pipeline: split, order, interruption and resumption don't change what comes out."""

from dataclasses import replace

import pytest
import torch

from passes.analyze.thresholds import analyze
from passes.calibrate.statistics import merge
from passes.errors import CalibrationError
from passes.plan.policies import Threshold
from slimdiff_fx.calibration.observe import observe_pipeline
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.listener import Listener
from slimdiff_fx.pipelines.captured import capture_pipeline
from slimdiff_fx.pipelines.load import load_pipeline
from slimdiff_fx.pipelines.sampling import Sampling
from slimdiff_fx.pipelines.trajectory import Sample

PROMPTS = ("noto cat face", "noto pizza", "noto rose", "noto tulip", "noto mushroom")
SAMPLES = tuple(Sample(number, prompt) for number, prompt in enumerate(PROMPTS))
SETTINGS = CalibrationSettings(Sampling(steps=2, guidance=3.0), seed=3, batch=2)


@pytest.fixture(scope="module")
def pipe(toy_pipeline):
    return load_pipeline(str(toy_pipeline)).pipe


@pytest.fixture(scope="module")
def captured(pipe):
    return capture_pipeline(pipe)


@pytest.fixture(scope="module")
def whole(pipe, captured):
    return observe_pipeline(pipe, captured, SAMPLES, SETTINGS)


def kept(captured, statistics, tau=0.3):
    plan = analyze(captured.program, captured.sites, statistics, Threshold(tau))
    return {name: site.kept for name, site in plan.sites.items()}


def test_both_rows_of_guidance_are_seen_at_every_step(whole):
    assert whole.done == whole.total == 5
    assert whole.statistics.samples == 5 * 2 * 2
    assert whole.statistics.calls == 3 * 2


@pytest.mark.parametrize("batch", [1, 5])
def test_split_into_batches_does_not_change_the_plan(pipe, captured, whole, batch):
    other = observe_pipeline(pipe, captured, SAMPLES, replace(SETTINGS, batch=batch))
    for site, sums in whole.statistics.sites.items():
        for name, values in sums.items():
            assert torch.allclose(other.statistics.sites[site][name], values, rtol=1e-4, atol=1e-6), (site, name)
    assert kept(captured, other.statistics) == kept(captured, whole.statistics)


def test_order_and_shards_do_not_change_the_plan(pipe, captured, whole):
    shards = [observe_pipeline(pipe, captured, part, SETTINGS).statistics for part in (SAMPLES[3:], SAMPLES[:3])]
    assert merge(*shards).samples == whole.statistics.samples
    assert kept(captured, merge(*shards)) == kept(captured, whole.statistics)
    backwards = observe_pipeline(pipe, captured, SAMPLES[::-1], SETTINGS)
    assert kept(captured, backwards.statistics) == kept(captured, whole.statistics)


class Interrupt(Listener):
    """Presses Ctrl-C in the middle of a batch."""

    def __init__(self, after):
        self.left = after

    def advance(self, count):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [3, 4, 5])
def test_resumed_run_has_the_same_bits(pipe, captured, whole, tmp_path, after):
    checkpoint = tmp_path / "run.checkpoint"
    settings = replace(SETTINGS, checkpoint=checkpoint)
    with pytest.raises(KeyboardInterrupt):
        observe_pipeline(pipe, captured, SAMPLES, settings, Interrupt(after))
    assert checkpoint.is_file()
    assert "forward" not in pipe.unet.__dict__
    resumed = observe_pipeline(pipe, captured, SAMPLES, replace(settings, resume=True))
    assert resumed.statistics.identical(whole.statistics)
    assert kept(captured, resumed.statistics) == kept(captured, whole.statistics)


def test_interrupt_before_the_first_batch_is_done_leaves_nothing(pipe, captured, whole, tmp_path):
    settings = replace(SETTINGS, checkpoint=tmp_path / "run.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        observe_pipeline(pipe, captured, SAMPLES, settings, Interrupt(1))
    assert not (tmp_path / "run.checkpoint").exists()
    anew = observe_pipeline(pipe, captured, SAMPLES, replace(settings, resume=True))
    assert anew.statistics.identical(whole.statistics)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed"),
        ({"batch": 3}, "batch"),
        ({"sampling": Sampling(steps=3, guidance=3.0)}, "steps"),
        ({"sampling": Sampling(steps=2, guidance=2.0)}, "guidance"),
        ({"observe_steps": 1}, "observe_steps"),
    ],
)
def test_resuming_with_other_settings_is_refused(pipe, captured, tmp_path, change, named):
    settings = replace(SETTINGS, checkpoint=tmp_path / "run.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        observe_pipeline(pipe, captured, SAMPLES, settings, Interrupt(3))
    with pytest.raises(CalibrationError, match=f"other {named}"):
        observe_pipeline(pipe, captured, SAMPLES, replace(settings, resume=True, **change))
    with pytest.raises(CalibrationError, match=r"other (conditions|samples)"):
        observe_pipeline(pipe, captured, SAMPLES[1:], replace(settings, resume=True))


def test_resuming_with_another_model_is_refused(toy_pipeline, pipe, captured, tmp_path):
    settings = replace(SETTINGS, checkpoint=tmp_path / "run.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        observe_pipeline(pipe, captured, SAMPLES, settings, Interrupt(3))
    other = load_pipeline(str(toy_pipeline)).pipe
    with torch.no_grad():
        for values in other.unet.parameters():
            values.mul_(1.1)
    with pytest.raises(CalibrationError, match="another model"):
        observe_pipeline(other, capture_pipeline(other), SAMPLES, replace(settings, resume=True))
