"""Adapters of the dense model on a slim one: `load_lora_weights` and everything after it, as on the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from passes.errors import UsageError
from passes.plan import SlimPlan
from slimdiff_fx.lora import LinearCut, as_peft, dense_or_slim, linear_cuts, slice_lora

_FETCHING = (
    *("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder"),
    *("weight_name", "use_safetensors"),
)


class SlimLoraMixin:
    """Slices adapters of the dense model when they are loaded."""

    def load_lora_adapter(
        self,
        source: str | Mapping[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter that was trained for the dense model, or one that was trained on this slim one.

        Pipelines call this for `load_lora_weights`. Weights, `set_adapters`, fusing and unfusing are peft's own.

        Args:
            source: state dict, file, folder or hub id.
            prefix: of the denoiser's keys; None if they have none.
            hotswap: put the weights in the place of those of an adapter that is loaded.
            kwargs: as diffusers takes them.

        Raises:
            UsageError: peft is missing, or the adapter is no plain LoRA.
            PlanError: the adapter is of another model, or its matrices can't be sliced.
            CheckpointError: the plan is missing.
        """
        if not is_peft_available():
            raise UsageError("LoRA needs peft; pip install 'slimdiff-fx[lora]'")
        if isinstance(source, Mapping):
            state_dict = source
        else:
            fetching = {name: kwargs.pop(name) for name in _FETCHING if name in kwargs}
            state_dict, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
                source, return_lora_metadata=True, **fetching
            )
            kwargs = {"network_alphas": alphas, "metadata": metadata, **kwargs}
        own = {key: value for key, value in state_dict.items() if prefix is None or key.startswith(f"{prefix}.")}
        super().load_lora_adapter(self._sliced(own), prefix=prefix, hotswap=hotswap, **kwargs)  # type: ignore[misc]

    def _sliced(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plan: SlimPlan = self.plan_from_dense()  # type: ignore[attr-defined]
        state_dict = as_peft(state_dict)
        cuts = linear_cuts(plan)
        slim = dense_or_slim(state_dict, cuts, self._widths(cuts))
        return dict(state_dict) if slim else slice_lora(state_dict, plan)

    def _widths(self, cuts: Mapping[str, LinearCut]) -> dict[str, int]:
        assert isinstance(self, nn.Module)
        widths = {}
        modules = dict(self.named_modules())
        for path, cut in cuts.items():
            if path in modules:
                linear: Any = getattr(modules[path], "base_layer", modules[path])
                widths[path] = linear.in_features if cut.consumes else linear.out_features
        return widths


# Weights by block, as set_adapters takes them, are spelt out by a function that diffusers keeps by the class's name.
_SET_ADAPTER_SCALE_FN_MAPPING["SlimUNet2DConditionModel"] = _SET_ADAPTER_SCALE_FN_MAPPING["UNet2DConditionModel"]
