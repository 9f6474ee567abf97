"""IP-Adapters and attention processors: sliced, or refused by name with what to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, CustomDiffusionAttnProcessor

import slimdiff_fx
from passes.errors import CheckpointError, UsageError
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import random_plan
from tests.toy_adapters import bare, masked
from tests.toy_pipeline import tiny_unet

TEXT, CLIP, TOKENS = 128, 24, 4
EXACT = {"rtol": 0, "atol": 1e-10}


def ip_adapter(unet):
    """Make an IP-Adapter of random weights, in the layout of its files."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return 0.2 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    widths = [
        module.to_k.out_features
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn2")
    ]
    attention = {
        f"{2 * at + 1}.{linear}.weight": draw(width, TEXT)
        for at, width in enumerate(widths)
        for linear in ("to_k_ip", "to_v_ip")
    }
    image = {"proj.weight": draw(TOKENS * TEXT, CLIP), "proj.bias": draw(TOKENS * TEXT)}
    return {"image_proj": {**image, "norm.weight": draw(TEXT), "norm.bias": draw(TEXT)}, "ip_adapter": attention}


@pytest.fixture(scope="module")
def models(toy_pipeline):
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    return SimpleNamespace(pipe=pipe, dense=pipe.unet, plan=random_plan(pipe.unet, 5))


def _draw(models, unet, **options):
    models.pipe.register_modules(unet=unet)
    pipe, generator = models.pipe, torch.Generator().manual_seed(0)
    return pipe("rose", num_inference_steps=2, generator=generator, output_type="latent", **options).images


def test_ip_adapter_loses_the_heads_that_cross_attention_lost(models) -> None:
    dense, slim = bare(models.dense), make_slim(models.dense, models.plan)
    picture = torch.randn(2, 1, 1, CLIP, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with masked(dense, models.plan):
        without = _draw(models, dense)
    for unet in (dense, slim):
        models.pipe.register_modules(unet=unet)
        models.pipe.load_ip_adapter(ip_adapter(models.dense), subfolder="", weight_name="", image_encoder_folder=None)
        models.pipe.set_ip_adapter_scale(0.6)
    with masked(dense, models.plan):
        expected = _draw(models, dense, ip_adapter_image_embeds=[picture])
    torch.testing.assert_close(_draw(models, slim, ip_adapter_image_embeds=[picture]), expected, **EXACT)
    assert (expected - without).abs().max() > 0.05
    models.pipe.unload_ip_adapter()
    torch.testing.assert_close(_draw(models, slim), without, **EXACT)


def test_ip_adapter_is_refused_where_heads_are_narrower(models) -> None:
    slim = make_slim(models.dense, models.plan)
    name = next(name for name in slim.config.slim_units if name.endswith("attn2"))
    units = {**slim.config.slim_units, name: {**slim.config.slim_units[name], "width": 4}}
    slim.register_to_config(slim_units=units)
    with pytest.raises(UsageError, match="narrower heads, and an IP-Adapter"):
        slim._load_ip_adapter_weights([ip_adapter(models.dense)])


def test_ip_adapter_is_neither_captured_nor_saved(models, tmp_path) -> None:
    slim = make_slim(models.dense, models.plan)
    slim._load_ip_adapter_weights([ip_adapter(models.dense)])
    with pytest.raises(UsageError, match="unload_ip_adapter"):
        slimdiff_fx.capture(slim)
    with pytest.raises(CheckpointError, match="attention processor with weights"):
        slim.save_pretrained(tmp_path)


class _Own:
    """Somebody's attention processor."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return 2 * AttnProcessor2_0()(attn, hidden_states, *args, **kwargs)


def _set(processor):
    return lambda unet: unet.set_attn_processor(processor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(_Own()), "custom attention processor, _Own, .* set_attn_processor"),
        (
            _set(CustomDiffusionAttnProcessor(hidden_size=32, cross_attention_dim=128)),
            "custom attention processor, CustomDiffusionAttnProcessor",
        ),
        (lambda unet: unet.set_attention_slice(1), "disable_attention_slicing"),
    ],
    ids=["own", "custom diffusion", "slices"],
)
def test_processors_that_a_folder_does_not_hold_are_refused(change, message) -> None:
    unet = tiny_unet()
    change(unet)
    with pytest.raises(UsageError, match=message):
        slimdiff_fx.slim(unet, batches=[((), {})])
    unet.set_attn_processor(AttnProcessor2_0())
    describe(unet)


def test_somebodys_processor_runs_on_a_slim_model(models) -> None:
    dense, slim = bare(models.dense), make_slim(models.dense, models.plan)
    for unet in (dense, slim):
        unet.set_attn_processor(_Own())
    with masked(dense, models.plan):
        expected = _draw(models, dense)
    torch.testing.assert_close(_draw(models, slim), expected, **EXACT)
