"""The examples in the docstrings of public names are run, on one tiny denoiser that they share."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

import slimdiff_fx
from tests.plans import plan_of

# Made on demand or of another library: their docstrings are those of diffusers, or say how torch calls them.
WITHOUT = {name for name in slimdiff_fx.__all__ if name.endswith("Model")} | {"ModelMixin", "register"}
NAMES = [name for name in slimdiff_fx.__all__ if name not in WITHOUT]


def _unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What an example may use without making it: the denoiser, and what each stage made of it."""
    unet = _unet()
    program = slimdiff_fx.capture(unet)
    draw = torch.Generator().manual_seed(0)
    batches = [((torch.randn(2, 4, 8, 8, generator=draw), torch.tensor([9.0, 700.0]), *program.args[2:]), {})] * 2
    prepared = slimdiff_fx.prepare(program)
    slimdiff_fx.calibrate(prepared, batches)
    plan = slimdiff_fx.analyze(prepared, policy=slimdiff_fx.KeepParams(0.95))
    return {
        "slimdiff_fx": slimdiff_fx,
        "torch": torch,
        "unet": unet,
        "program": program,
        "inputs": program.args,
        "batches": batches,
        "prepared": prepared,
        "plan": plan,
        "heads_plan": plan_of(program, {"down_blocks.0.attentions.0.transformer_blocks.0.attn1": (0, 1, 3)}),
        "slim": slimdiff_fx.convert(program, plan),
    }


def _examples(name: str, names: dict[str, Any]) -> doctest.DocTest:
    value = getattr(slimdiff_fx, name)
    return doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", dict(names), name, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run(name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write a file
    test = _examples(name, names)
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


def test_a_wrong_example_is_noticed() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    said: list[str] = []
    doctest.DocTestRunner().run(test, out=said.append)
    assert said
