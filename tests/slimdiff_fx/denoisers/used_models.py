"""What users and their libraries do to a model, each a function that does it: some change what it computes."""

from __future__ import annotations

import functools
from types import MethodType

import accelerate
import torch
from diffusers import UNet2DConditionModel
from diffusers.hooks import HookRegistry, PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0
from peft import LoraConfig
from torch import nn

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
