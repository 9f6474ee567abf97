"""What users put on a denoiser that can't go along when it is captured and saved: adapters, attention processors."""

from __future__ import annotations

from diffusers.models import attention_processor as own
from diffusers.models.attention_processor import Attention
from torch import nn

from passes.errors import UsageError

_BY_SLICES = (own.SlicedAttnProcessor, own.SlicedAttnAddedKVProcessor)
_BY_XFORMERS = (own.XFormersAttnProcessor, own.XFormersAttnAddedKVProcessor)


def refuse_altered(model: nn.Module) -> None:
    """Refuse a model that a saved folder would not bring back.

    Raises:
        UsageError: says what is on it, where, and how to take it off.
    """
    wrapped = wrapped_layer(model)
    if wrapped is not None:
        raise UsageError(
            f"{wrapped!r} is wrapped by an adapter. To have the adapter in the weights, call fuse_lora() and then "
            "unload_lora_weights() on the pipeline; to load it into the slim model later, unload_lora_weights() alone"
        )
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            _refuse_processor(name, module.processor)


def wrapped_layer(model: nn.Module) -> str | None:
    """Name a layer that an adapter has wrapped; None if there is none."""
    return next((name for name, module in model.named_modules() if hasattr(module, "base_layer")), None)


def processor_with_weights(model: nn.Module) -> str | None:
    """Name an attention whose processor has weights of its own, as IP-Adapter's; None if there is none."""
    return next(
        (
            name
            for name, module in model.named_modules()
            if isinstance(module, Attention) and isinstance(module.processor, nn.Module)
        ),
        None,
    )


def _refuse_processor(name: str, processor: object) -> None:
    kind = type(processor).__name__
    if "IPAdapter" in kind:
        raise UsageError(f"{name!r} has an IP-Adapter; call unload_ip_adapter() first, and load it into the slim model")
    if isinstance(processor, nn.Module) or type(processor).__module__ != own.__name__:
        raise UsageError(
            f"{name!r} has a custom attention processor, {kind}, which a saved folder doesn't hold; call "
            "set_default_attn_processor() on the denoiser first"
        )
    if isinstance(processor, _BY_SLICES):
        raise UsageError(f"{name!r} computes its attention in slices; call disable_attention_slicing() first")
    if isinstance(processor, _BY_XFORMERS):
        raise UsageError(
            f"{name!r} uses xFormers, which can't be captured; call disable_xformers_memory_efficient_attention() first"
        )
