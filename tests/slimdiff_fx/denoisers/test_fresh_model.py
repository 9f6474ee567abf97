"""What sits on a model is found by what a fresh one has, whoever put it there; and what changes nothing is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline

from passes.errors import UsageError
from slimdiff_fx.denoisers.altered import refuse_altered, refuse_unsaved
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.fresh_model import alterations, fresh_model
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import predict, random_plan
from tests.slimdiff_fx.denoisers.test_altered import ip_adapter
from tests.slimdiff_fx.denoisers.used_models import (
    BLOCK,
    adapter_and_off,
    an_empty_register,
    another_backend,
    another_convolution,
    another_epsilon,
    backend_and_back,
    broadcast,
    cached_forwards,
    freeu,
    freeu_and_off,
    fused,
    hook_and_off,
    in_chunks,
    in_mixed_precision,
    in_training,
    lists_for_tuples,
    merged_tokens,
    noted,
    of_a_class_that_overrides_nothing,
    of_another_class,
    offloaded_and_back,
    offloaded_by_group,
    offloaded_by_layer,
    offloaded_whole,
    perturbed_attention,
    renamed_weights,
    reparametrized,
    seamless,
    sliced_and_back,
    stored_in_fp8,
    uncached_forwards,
    unfused,
    unmerged_tokens,
    watched,
    wider_input,
    with_a_layer,
    without_a_layer,
    written_out,
)
from tests.toy_denoisers import FAMILIES
from tests.toy_pipeline import tiny_unet


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (freeu, r"'up_blocks\.0' has 'b1' set to 1\.4, .*disable_freeu\(\)"),
        (merged_tokens, r"UNet2DConditionModel itself has a forward pre-hook, .*load the pipeline anew"),
        (cached_forwards, r"has another forward than (UpBlock2D|UNetMidBlock2DCrossAttn)"),
        (offloaded_by_layer, r"AlignDevicesHook \(put there by accelerate\).*remove_all_hooks\(\)"),
        (offloaded_whole, r"itself has a hook, CpuOffload .*remove_all_hooks\(\)"),
        (offloaded_by_group, r"'conv_in' has a hook, GroupOffloadingHook .*anew without group offloading"),
        (stored_in_fp8, r"LayerwiseCastingHook .*anew without enable_layerwise_casting"),
        (broadcast, r"attn1' has a hook, PyramidAttentionBroadcastHook .*disable_cache\(\)"),
        (in_mixed_precision, r"itself has another forward than UNet2DConditionModel"),
        (seamless, r"'conv_in' has 'padding_mode' set to 'circular', where its configuration gives 'zeros'"),
        (another_convolution, r"'conv_in' has another '_conv_forward'"),
        (fused, r"attn1' has fused projections; load the pipeline anew without fuse_qkv_projections"),
        (unfused, r"'fused_projections' set to True.*load the pipeline anew without fuse_qkv_projections"),
        (in_chunks, r"'_chunk_dim' set to 1.*set_chunk_feed_forward\(None, 0\)"),
        (perturbed_attention, r"PAGIdentitySelfAttnProcessor2_0, where its configuration gives AttnProcessor2_0"),
        (another_backend, r"an attention backend, flash; call reset_attention_backend\(\)"),
        (another_epsilon, r"'conv_norm_out' has 'eps' set to 0\.001, where its configuration gives 1e-05"),
        (wider_input, r"'conv_in' has 'in_channels' set to 17, where its configuration gives 16"),
        (reparametrized, r"'conv_in' is a ParametrizedConv2d|'conv_in' has 'weight' absent"),
        (without_a_layer, r"'mid_block\.resnets\.1' is a Identity, where its configuration gives a ResnetBlock2D"),
        (with_a_layer, r"'mid_block\.extra' is a Linear that its configuration doesn't give"),
        (watched, r"'mid_block' has a forward hook, watched.*by the handle"),
        (renamed_weights, r"itself has a hook on its state dict"),
        (of_another_class, r"is a Doubled, whose 'forward' is not that of UNet2DConditionModel"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_what_a_folder_does_not_hold_is_refused_with_what_to_do(put, message) -> None:
    unet = tiny_unet()
    put(unet)
    with pytest.raises(UsageError, match=message) as raised:
        describe(unet)
    assert "\n" not in str(raised.value)


def test_a_replaced_class_is_refused_without_the_hook_too() -> None:
    unet = tiny_unet()
    merged_tokens(unet)
    unet._tome_info["hooks"].pop().remove()
    with pytest.raises(UsageError, match=r"is a Merging, whose 'forward' is not that of BasicTransformerBlock"):
        refuse_altered(unet)


@pytest.mark.parametrize(
    "put",
    [
        freeu_and_off,
        unmerged_tokens,
        uncached_forwards,
        offloaded_and_back,
        an_empty_register,
        hook_and_off,
        adapter_and_off,
        lists_for_tuples,
        in_training,
        written_out,
        backend_and_back,
        noted,
        sliced_and_back,
        of_a_class_that_overrides_nothing,
        lambda unet: unet.half(),
        lambda unet: unet.to(torch.bfloat16, memory_format=torch.channels_last),
        lambda unet: unet.mid_block.compile(backend="eager"),
    ],
    ids=lambda put: put.__name__,
)
def test_what_changes_nothing_is_accepted(put) -> None:
    unet = tiny_unet()
    put(unet)
    refuse_altered(unet)
    refuse_unsaved(unet)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_no_family_differs_from_a_fresh_one(family, tmp_path) -> None:
    dense = FAMILIES[family](2, torch.float32)
    inputs = describe(dense)
    predict(dense, inputs)
    slim = make_slim(dense, random_plan(dense, 2))
    twice = make_slim(slim, random_plan(slim, 3))
    predict(twice, inputs)
    twice.save_pretrained(tmp_path)
    again = type(twice).from_pretrained(tmp_path)
    predict(again, inputs)
    for model in (dense, slim, twice, again, apply_plan(dense, random_plan(dense, 4))):
        refuse_altered(model)


def test_a_drawn_pipeline_and_one_that_had_an_ip_adapter_differ_in_nothing(toy_pipeline) -> None:
    pipe = DiffusionPipeline.from_pretrained(toy_pipeline, dtype=torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe("rose", num_inference_steps=1, output_type="latent")
    refuse_altered(pipe.unet)
    pipe.load_ip_adapter(ip_adapter(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
    with pytest.raises(UsageError, match=r"has an IP-Adapter; call unload_ip_adapter"):
        refuse_altered(pipe.unet)
    pipe.unload_ip_adapter()
    refuse_altered(pipe.unet)


def test_a_fresh_model_takes_no_memory_and_no_random_numbers() -> None:
    unet = tiny_unet()
    state = torch.get_rng_state()
    fresh = fresh_model(unet)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(values.is_meta for values in fresh.parameters())
    assert not any(values.is_meta for values in unet.parameters())
    assert list(alterations(unet, fresh)) == []


@pytest.fixture
def slim():
    dense = tiny_unet()
    return make_slim(dense, random_plan(dense, 5))


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (freeu, r"disable_freeu"),
        (stored_in_fp8, r"lost precision"),
        (seamless, r"'padding_mode'"),
        (wider_input, r"'in_channels'"),
        (offloaded_by_layer, r"is offloaded and can't be saved so.*remove_all_hooks"),
        (lambda unet: setattr(unet.get_submodule(f"{BLOCK}.attn1"), "heads", 7), r"'heads' set to 7, .* gives"),
    ],
    ids=["freeu", "fp8", "seamless", "wider", "offloaded", "heads"],
)
def test_a_slim_model_is_not_saved_without_what_it_computes_with(slim, put, message, tmp_path) -> None:
    put(slim)
    with pytest.raises(UsageError, match=message):
        slim.save_pretrained(tmp_path / "slim")
    assert not (tmp_path / "slim").exists()


@pytest.mark.parametrize("put", [in_mixed_precision, watched, offloaded_whole, cached_forwards, in_training])
def test_a_slim_model_in_training_or_offloaded_whole_is_saved(slim, put, tmp_path) -> None:
    expected = {name: values.clone() for name, values in slim.state_dict().items()}
    put(slim)
    slim.save_pretrained(tmp_path)
    loaded = type(slim).from_pretrained(tmp_path).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], values) for name, values in expected.items())


def test_what_the_slim_class_notes_of_itself_is_no_alteration(slim, monkeypatch) -> None:
    monkeypatch.setattr(type(slim), "_noted", None, raising=False)
    slim.mid_block._noted = None
    slim._noted = 3.0
    refuse_altered(slim)


def test_where_a_block_reads_numbers_that_nobody_names_they_are_found() -> None:
    unet = tiny_unet()
    unet.mid_block.strength = SimpleNamespace(value=2)
    refuse_altered(unet)
    for value in (0.5, "strong", (1, 2), True):
        unet.mid_block.strength = value
        with pytest.raises(UsageError, match=r"'mid_block' has 'strength' set to .*, which a fresh one has not"):
            refuse_altered(unet)
