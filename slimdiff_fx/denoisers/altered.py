"""What users put on a denoiser that can't go along when it is captured and saved."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.models import attention_processor as own
from diffusers.models.attention_processor import Attention
from torch import nn

from passes.errors import CheckpointError, UsageError
from slimdiff_fx.denoisers.fresh_model import Alteration, alterations, fresh_model
from slimdiff_fx.denoisers.slim.apply_plan import cut_modules
from slimdiff_fx.denoisers.taken_over import refuse_taken_over

_BY_SLICES = (own.SlicedAttnProcessor, own.SlicedAttnAddedKVProcessor)
_BY_XFORMERS = (own.XFormersAttnProcessor, own.XFormersAttnAddedKVProcessor)
# Attention written out, and as torch's own operator: the same function.
_EQUAL = (
    (own.AttnProcessor, own.AttnProcessor2_0),
    (own.AttnAddedKVProcessor, own.AttnAddedKVProcessor2_0),
)
_ANEW = "load the pipeline anew without it"
# How an alteration is undone, by the package, module or attribute that it is of. Others are found too, without advice.
_REMEDIES = {
    "tomesd": "call tomesd.remove_patch(pipe)",
    "DeepCache": "call disable() on the DeepCacheSDHelper",
    "accelerate.hooks": "call remove_all_hooks() on the pipeline (of a bare model: accelerate.hooks."
    "remove_hook_from_module(model, recurse=True)), and move it to its device with to()",
    "accelerate.utils": "call accelerator.unwrap_model(model, keep_fp32_wrapper=False)",
    "diffusers.hooks.group_offloading": "load the pipeline anew without group offloading",
    "diffusers.hooks.layerwise_casting": "load the pipeline anew without enable_layerwise_casting(): its weights have "
    "lost precision",
    "diffusers.hooks": "call disable_cache() on the model if it has it, or load the pipeline anew without the hook",
    "fused_projections": "load the pipeline anew without fuse_qkv_projections()",
    **dict.fromkeys(("_chunk_size", "_chunk_dim"), "call set_chunk_feed_forward(None, 0) on it"),
    **dict.fromkeys(("s1", "s2", "b1", "b2"), "this is FreeU: call disable_freeu() on the pipeline"),
}
_BY_KIND = {
    "class": _ANEW,
    "hook": f"remove it by the handle that registering it gave, or {_ANEW}",
    "forward": f"put back the class's own, or {_ANEW}",
    "attribute": f"put it back, or {_ANEW}",
    "structure": "load the pipeline anew, or change the configuration along with the modules (register_to_config)",
}
# Wrappers of the running process (compile, distributed training): a saved model has the weights without them.
_OF_THE_PROCESS = ("hook", "forward")
_CHANGING_WEIGHTS = ("diffusers.hooks.layerwise_casting",)


def refuse_altered(model: nn.Module) -> None:
    """Refuse a model, dense or slim, that a saved folder would not bring back.

    Raises:
        UsageError: says what is on it, where, and how to take it off.
    """
    refuse_taken_over(model)
    wrapped = wrapped_layer(model)
    if wrapped is not None:
        raise UsageError(
            f"{wrapped!r} is wrapped by an adapter. To have the adapter in the weights, call fuse_lora() and then "
            "unload_lora_weights() on the pipeline; to load it into the slim model later, unload_lora_weights() alone"
        )
    fresh = fresh_model(model)
    expected = dict(fresh.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            _refuse_processor(name, module.processor, getattr(expected.get(name), "processor", None))
    for found in alterations(model, fresh, cut_modules(model)):
        raise UsageError(_sentence(model, found))


def refuse_unsaved(model: nn.Module) -> None:
    """Refuse to save a model with something on it that changes what it computes and that no folder holds.

    Hooks and wrapped forwards pass: training and offloading put them there, and nobody expects them in a folder.

    Raises:
        UsageError: says what is on it, where, and how to take it off.
    """
    away = next((name for name, values in model.named_parameters() if values.is_meta), None)
    if away is not None:
        raise UsageError(f"{away!r} is offloaded and can't be saved so; {_REMEDIES['accelerate.hooks']}")
    try:
        fresh = fresh_model(model)
    except CheckpointError:
        return  # the configuration is damaged; loading the folder reports that
    for found in alterations(model, fresh, cut_modules(model)):
        if found.kind not in _OF_THE_PROCESS or found.by in _CHANGING_WEIGHTS:
            raise UsageError(_sentence(model, found))


def refuse_wrapped(pipe: DiffusionPipeline) -> None:
    """Refuse a pipeline with an adapter in any component: its layers would be saved in the place of the model's own.

    Raises:
        UsageError: says where it is, and how to take it off.
    """
    for component, module in pipe.components.items():
        wrapped = wrapped_layer(module) if isinstance(module, nn.Module) else None
        if wrapped is not None:
            raise UsageError(
                f"{component}: {wrapped!r} is wrapped by an adapter. To have the adapter in the weights, call "
                "fuse_lora() and then unload_lora_weights() on the pipeline; to load it into the slim pipeline later, "
                "unload_lora_weights() alone"
            )


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


def _sentence(model: nn.Module, found: Alteration) -> str:
    where = f"{type(model).__name__} itself" if found.where == "" else repr(found.where)
    by = found.by.partition(".")[0]
    known = found.kind in ("class", "hook", "forward") and by not in ("", "__main__", "torch")
    maker = f" (put there by {by})" if known else ""
    return f"{where} {found.what}{maker}, and a saved folder doesn't hold that; {_remedy(found)}"


def _remedy(found: Alteration) -> str:
    by = found.by
    while by:
        if by in _REMEDIES:
            return _REMEDIES[by]
        by = by.rpartition(".")[0]
    return _BY_KIND[found.kind]


def _refuse_processor(name: str, processor: Any, fresh: Any) -> None:
    kind = type(processor).__name__
    if "IPAdapter" in kind:
        raise UsageError(f"{name!r} has an IP-Adapter; call unload_ip_adapter() first, and load it into the slim model")
    if isinstance(processor, nn.Module) or type(processor).__module__ != own.__name__:
        raise UsageError(
            f"{name!r} has a custom attention processor, {kind}, which a saved folder doesn't hold; call "
            "set_attn_processor(AttnProcessor2_0()) on the denoiser first"
        )
    if isinstance(processor, _BY_SLICES):
        raise UsageError(f"{name!r} computes its attention in slices; call disable_attention_slicing() first")
    if isinstance(processor, _BY_XFORMERS):
        raise UsageError(
            f"{name!r} uses xFormers, which can't be captured; call disable_xformers_memory_efficient_attention() first"
        )
    if isinstance(processor, own.FusedAttnProcessor2_0):
        raise UsageError(f"{name!r} has fused projections; {_REMEDIES['fused_projections']}")
    same = type(processor) is type(fresh) or any(type(processor) in pair and type(fresh) in pair for pair in _EQUAL)
    if fresh is not None and not same:
        raise UsageError(
            f"{name!r} has the attention processor {kind}, where its configuration gives {type(fresh).__name__}; call "
            f"set_attn_processor({type(fresh).__name__}()) on the denoiser first"
        )
    backend = getattr(processor, "_attention_backend", None)
    if backend is not None and str(getattr(backend, "value", backend)) != "native":
        raise UsageError(f"{name!r} has an attention backend, {backend}; call reset_attention_backend() first")
