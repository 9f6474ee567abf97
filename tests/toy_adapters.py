"""Small random LoRAs for toy UNets, and the masked dense model that a slim one has to equal with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.denoisers.slim.apply_plan import eager_site

# Every linear of the transformer blocks, and some that no plan touches.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "time_emb_proj")


def random_lora(
    unet: UNet2DConditionModel, seed: int, *, rank: int = 3, targets: tuple[str, ...] = TARGETS, **options: Any
) -> dict[str, Tensor]:
    """Make an adapter as its training would leave it, with both matrices random; keys as diffusers writes them."""
    trained = copy.deepcopy(unet)
    trained.add_adapter(LoraConfig(r=rank, target_modules=list(targets), **options))
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(trained)
    return {
        f"unet.{key}": 0.1 * torch.randn(value.shape, generator=generator).to(value) for key, value in state.items()
    }


@contextmanager
def masked(unet: UNet2DConditionModel, plan: SlimPlan) -> Iterator[None]:
    """Multiply what a plan removes by zero, where it enters the output linears of a dense model."""
    handles = []
    for name, entry in plan.sites.items():
        base = eager_site(bare(unet), name, entry)
        mask = base.channels(entry.mask())
        linear = unet.get_submodule(base.tap)
        handles.append(linear.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask, *args[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bare(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give a copy without adapters; an adapter that was fused stays in the weights."""
    without = copy.deepcopy(unet)
    if hasattr(without, "peft_config"):
        without.unload_lora()
    return without
