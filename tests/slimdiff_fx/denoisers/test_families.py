from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, UNet2DConditionModel
from torch import nn

from passes.capture.capture import capture
from passes.errors import UsageError
from slimdiff_fx.denoisers.families import ROOT, capture_denoiser, describe
from tests.toy_denoisers import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_wrapper_is_the_model(family: str) -> None:
    model = FAMILIES[family](5, torch.float64)
    inputs = describe(model, batch=3)
    assert getattr(inputs.module, ROOT) is model
    assert inputs.root == ROOT
    with torch.no_grad():
        result = inputs.module(*inputs.args, **inputs.kwargs)
        sample, *rest = inputs.args
        if family == "pixart":
            text, timestep, mask = rest
            none = {"resolution": None, "aspect_ratio": None}
            expected = model(
                sample, text, timestep=timestep, encoder_attention_mask=mask, added_cond_kwargs=none, return_dict=False
            )[0]
        elif family == "unet_sdxl":
            expected = model(sample, rest[0], rest[1], added_cond_kwargs=rest[2], return_dict=False)[0]
        else:
            expected = model(sample, *rest, return_dict=False)[0]
    # bitwise; at its own size PixArt reads the positions from a table that holds the same numbers
    assert torch.equal(result, expected)
    assert result.shape[0] == 3
    assert all(value.dtype == torch.float64 for value in (sample,))


def test_sizes_and_seed_are_followed() -> None:
    model = FAMILIES["unet_sd15"](0, torch.float32)
    sample, timestep, text = describe(model, batch=4, height=6, width=10, tokens=3, seed=1).args
    assert sample.shape == (4, 4, 6, 10)
    assert timestep.shape == (4,)
    assert text.shape[:2] == (4, 3)
    again = describe(model, batch=4, height=6, width=10, tokens=3, seed=1).args
    other = describe(model, batch=4, height=6, width=10, tokens=3, seed=2).args
    assert torch.equal(sample, again[0])
    assert not torch.equal(sample, other[0])


def test_the_default_size_is_the_models() -> None:
    model = FAMILIES["unet_unconditional"](0, torch.float32)
    assert describe(model).args[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 1}, "2 or more"),
        ({"height": 7}, "no multiple of 2"),
        ({"width": 2}, "single row"),
    ],
)
def test_impossible_examples_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        describe(FAMILIES["unet_sd15"](0, torch.float32), **sizes)


def test_dit_draws_squares() -> None:
    with pytest.raises(UsageError, match="squares only"):
        describe(FAMILIES["dit"](0, torch.float32), width=12)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), AutoencoderKL(block_out_channels=(32,))])
def test_other_models_are_named(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=rf"{type(model).__name__}.*UNet2DConditionModel"):
        describe(model)


def _unet(**options: object) -> UNet2DConditionModel:
    settings: dict[str, object] = {
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    }
    return UNet2DConditionModel(**{**settings, **options}).eval()


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({"time_cond_proj_dim": 6}, 4),
        ({"num_class_embeds": 5}, 4),
        ({"class_embed_type": "timestep"}, 4),
        ({"encoder_hid_dim": 10, "encoder_hid_dim_type": "text_proj"}, 3),
    ],
)
def test_other_conditions_of_unets(options: dict[str, object], inputs: int) -> None:
    described = describe(_unet(**options))
    assert len(described.args) == inputs
    with torch.no_grad():
        assert torch.isfinite(described.module(*described.args)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"addition_embed_type": "text", "encoder_hid_dim": 8},
        {"class_embed_type": "identity"},
        {"time_cond_proj_dim": 6, "num_class_embeds": 5},
    ],
)
def test_conditions_that_are_not_known_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="not supported"):
        describe(_unet(**options))


@pytest.mark.parametrize(("width", "ids"), [(2816, 6), (2560, 5)])
def test_sdxl_base_and_refiner_count_their_time_ids(width: int, ids: int) -> None:
    with torch.device("meta"):
        model = _unet(
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=width
        )
    config = model.config
    from slimdiff_fx.denoisers.families import time_ids

    assert time_ids(config) == ids
    assert width - ids * 256 == 1280


def test_pixart_takes_sizes_as_conditions() -> None:
    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=24,
        sample_size=8,
        caption_channels=10,
        norm_num_groups=4,
        use_additional_conditions=True,
    ).eval()
    program = capture_denoiser(model, height=8, width=12, tokens=5)
    inputs = describe(model, batch=3, height=12, width=8, tokens=7, seed=2)
    with torch.no_grad():
        # fp32; the same operators on another layout
        torch.testing.assert_close(program(*inputs.args), inputs.module(*inputs.args), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model = FAMILIES["pixart"](0, torch.float32)
    height = model.pos_embed.height
    inputs = describe(model)
    capture(inputs.module, inputs.args, inputs.kwargs, inputs.dynamic_shapes, root=inputs.root)
    assert model.pos_embed.height == height
    assert all(parameter.requires_grad for parameter in model.parameters())
