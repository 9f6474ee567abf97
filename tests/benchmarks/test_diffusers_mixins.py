"""Tests of mixins run on the dense and on the slim class; the checkout here is a small one of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.diffusers_mixins import compare
from benchmarks.mixin_plugin import Settings, half_of
from passes.errors import UsageError
from slimdiff_fx.denoisers.slim.models import SlimUNet2DConditionModel
from tests.toy_pipeline import tiny_unet

MIXINS = """
import pytest

class ThingTesterMixin:
    def test_same(self):
        assert self.model_class(**self.get_init_dict()).config.in_channels == 4

    def test_dense_alone(self):
        model = self.model_class(**self.get_init_dict())
        assert model.mid_block.attentions[0].transformer_blocks[0].attn1.heads == 2

    def test_overridden(self):
        assert False

    @pytest.mark.skipif(True, reason="test requires a hardware accelerator")
    def test_on_an_accelerator(self):
        pass

    @pytest.mark.skipif(True, reason="not today")
    def test_skipped(self):
        pass
"""
MODEL = """
import requests_mock
from diffusers import UNet2DConditionModel
from ..testing_utils import ThingTesterMixin

class Config:
    @property
    def model_class(self):
        return UNet2DConditionModel

    def get_init_dict(self):
        return {"block_out_channels": (8, 8), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2,
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 1,
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}

class TestThing(Config, ThingTesterMixin):
    def test_overridden(self):
        pass

    def test_of_no_mixin(self):
        assert False
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    models = tmp_path_factory.mktemp("checkout") / "tests" / "models"
    for folder, name, text in (("testing_utils", "__init__.py", MIXINS), ("unets", "__init__.py", "")):
        (models / folder).mkdir(parents=True)
        (models / folder / name).write_text(text)
    (models / "unets" / "test_models_unet_2d_condition.py").write_text(MODEL)
    for package in (models, models.parent):
        (package / "__init__.py").touch()
    return models.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("forced", [False, True])
def test_counts_by_mixin(forced, checkout) -> None:
    name = {"class": "UNet2DConditionModel", "mixin": "ThingTesterMixin"}
    result = compare(checkout, Settings(forced))
    # same, overridden, and forced the one that asks for an accelerator; on the dense class its own as well
    counts = {"tests": 5, "skipped": 2 - forced, "dense": 3 + forced, "slim": 2 + forced}
    assert result["counts"] == [{**name, **counts}]
    assert result["lost"] == ["UNet2DConditionModel ThingTesterMixin TestThing.test_dense_alone"]


def test_a_folder_without_tests_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="clone of its repository"):
        compare(tmp_path, Settings())


def test_half_of_every_site() -> None:
    dense = tiny_unet()
    units = half_of(dense)
    assert {entry["kept"] / entry["units"] for entry in units.values()} == {0.5}
    assert sum("width" in entry for entry in units.values()) == 2  # of four attentions, every second site
    slim = SlimUNet2DConditionModel(**{**dense.config, "slim_units": units})
    heads = slim.mid_block.attentions[0].transformer_blocks[0]
    assert (heads.attn1.heads, heads.ff.net[2].in_features) == (2, 64)
    inputs = torch.zeros(1, 16, 8, 8), torch.tensor([1]), torch.zeros(1, 2, 128)
    assert slim(*inputs).sample.shape == (1, 16, 8, 8)
    assert all("attn2" not in name for name in half_of(dense, whole=("attn2",)))
    alike = half_of(dense, uniform=True)
    assert {name.endswith("attn1") for name, entry in alike.items() if "width" in entry} == {True}
