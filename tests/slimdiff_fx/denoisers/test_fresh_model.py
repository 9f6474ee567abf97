"""What sits on a model is found by what a fresh one has, whoever put it there; and what changes nothing is not."""

from __future__ import annotations

import functools
from types import MethodType, SimpleNamespace

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.hooks import HookRegistry, PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0
from peft import LoraConfig
from torch import nn

from passes.errors import UsageError
from slimdiff_fx.denoisers.altered import refuse_altered, refuse_unsaved
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.fresh_model import alterations, fresh_model
from slimdiff_fx.denoisers.slim.apply_plan import apply_plan
from slimdiff_fx.denoisers.slim.models import make_slim
from tests.slimdiff_fx.denoisers.slim.test_models import predict, random_plan
from tests.slimdiff_fx.denoisers.test_altered import ip_adapter
from tests.toy_denoisers import FAMILIES
from tests.toy_pipeline import tiny_unet

CPU = torch.device("cpu")
BLOCK = "mid_block.attentions.0.transformer_blocks.0"


def freeu(unet):
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)


def merged_tokens(unet):
    """Do as tomesd does: a hook on the model, and another class for each block."""

    class Merging(BasicTransformerBlock):
        _parent = BasicTransformerBlock

        def forward(self, hidden_states, *args, **kwargs):
            return super().forward(hidden_states, *args, **kwargs)

    unet._tome_info = {"size": None, "hooks": [unet.register_forward_pre_hook(lambda module, args: None)], "args": {}}
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.__class__, module._tome_info = Merging, unet._tome_info


def unmerged_tokens(unet):
    merged_tokens(unet)
    unet._tome_info["hooks"].pop().remove()
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.__class__ = module._parent


def cached_forwards(unet):
    """Do as DeepCache does: wrap the forward of the model and of every block."""
    for module in (unet.mid_block, *unet.up_blocks):
        before = module.forward
        module.forward = lambda *args, before=before, **kwargs: before(*args, **kwargs)


def uncached_forwards(unet):
    methods = {name: module.forward for name, module in unet.named_modules()}
    cached_forwards(unet)
    for name, module in unet.named_modules():
        module.forward = methods[name]


def offloaded_by_layer(unet):
    accelerate.cpu_offload(unet, execution_device=CPU)


def offloaded_whole(unet):
    accelerate.cpu_offload_with_hook(unet, CPU)


def offloaded_by_group(unet):
    unet.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def stored_in_fp8(unet):
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def broadcast(unet):
    settings = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("transformer_blocks",),
        current_timestep_callback=lambda: 1,
    )
    apply_pyramid_attention_broadcast(unet, settings)


def in_mixed_precision(unet):
    unet.forward = torch.autocast("cpu", torch.bfloat16)(unet.forward)


def seamless(unet):
    unet.conv_in.padding_mode = "circular"


def another_convolution(unet):
    @functools.wraps(nn.Conv2d._conv_forward)
    def conv_forward(self, *args):
        return nn.Conv2d._conv_forward(self, *args)

    unet.conv_in._conv_forward = MethodType(conv_forward, unet.conv_in)


def fused(unet):
    unet.fuse_qkv_projections()


def unfused(unet):
    unet.fuse_qkv_projections()
    unet.unfuse_qkv_projections()


def in_chunks(unet):
    unet.get_submodule(BLOCK).set_chunk_feed_forward(2, 1)


def perturbed_attention(unet):
    unet.get_submodule(f"{BLOCK}.attn1").set_processor(PAGIdentitySelfAttnProcessor2_0())


def another_backend(unet):
    unet.get_submodule(f"{BLOCK}.attn1").processor._attention_backend = "flash"


def another_epsilon(unet):
    unet.conv_norm_out.eps = 1e-3


def wider_input(unet):
    unet.conv_in = nn.Conv2d(17, unet.conv_in.out_channels, 3, padding=1)


def reparametrized(unet):
    torch.nn.utils.parametrizations.weight_norm(unet.conv_in)


def without_a_layer(unet):
    unet.mid_block.resnets[1] = nn.Identity()


def with_a_layer(unet):
    unet.mid_block.extra = nn.Linear(2, 2)


def watched(unet):
    unet.mid_block.register_forward_hook(lambda module, args, output: None)


def renamed_weights(unet):
    unet.register_state_dict_post_hook(lambda *args: None)


class Doubled(UNet2DConditionModel):
    """Somebody's UNet."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def of_another_class(unet):
    unet.__class__ = Doubled


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


def freeu_and_off(unet):
    freeu(unet)
    unet.disable_freeu()


def offloaded_and_back(unet):
    offloaded_by_layer(unet)
    accelerate.hooks.remove_hook_from_module(unet, recurse=True)


def an_empty_register(unet):
    HookRegistry.check_if_exists_or_initialize(unet)


def hook_and_off(unet):
    watched(unet)
    unet.mid_block._forward_hooks.clear()
    HookRegistry.check_if_exists_or_initialize(unet.mid_block)


def adapter_and_off(unet):
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    unet.fuse_lora()
    unet.unload_lora()


def lists_for_tuples(unet):
    unet.conv_in.padding = list(unet.conv_in.padding)


def in_training(unet):
    unet.train().requires_grad_(False)
    unet.enable_gradient_checkpointing()
    unet.mid_block.register_full_backward_hook(lambda module, args, output: None)


def written_out(unet):
    unet.set_attn_processor(AttnProcessor())


def backend_and_back(unet):
    unet.set_attention_backend("native")


def noted(unet):
    unet.note, unet.lora_scale = "mine", 0.5


def sliced_and_back(unet):
    unet.set_attention_slice("auto")
    unet.set_attn_processor(AttnProcessor2_0())


class Helped(UNet2DConditionModel):
    """Somebody's UNet, with more methods and none changed."""

    def count(self):
        return sum(values.numel() for values in self.parameters())


def of_a_class_that_overrides_nothing(unet):
    unet.__class__ = Helped


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
