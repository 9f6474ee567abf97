"""Adapters on a slim model: `load_lora_adapter`, and so `load_lora_weights`, as on the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from diffusers.loaders.lora_base import _fetch_state_dict
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING
from diffusers.utils import is_peft_available
from torch import Tensor, nn

from passes.errors import CheckpointError, UsageError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.denoisers.slim.adapter_widths import Width, refuse_mixed, widths_at_cuts
from slimdiff_fx.denoisers.slim.lora import linear_cuts, refuse_kohya, slice_values
from slimdiff_fx.denoisers.slim.sites_of_classes import linears_of_site

# What diffusers passes on to fetch a file, with its defaults.
_FETCHING: Mapping[str, Any] = {
    **dict.fromkeys(("cache_dir", "proxies", "local_files_only", "token", "revision", "subfolder", "weight_name")),
    **{"use_safetensors": None, "force_download": False, "metadata": None},
}
_USER_AGENT = {"file_type": "attn_procs_weights", "framework": "pytorch"}


class SlimLoraMixin:
    """Slices adapters of the dense model when they are loaded."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | PathLike[str] | Mapping[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter that was trained for the dense model, or one that was trained on this slim one.

        Pipelines call this for `load_lora_weights`. Keys keep their names and their order, so that diffusers reads
        them, warns and refuses as it does on the dense model; weights, `set_adapters`, fusing and unfusing are peft's.

        Args:
            pretrained_model_name_or_path_or_dict: state dict, file, folder or hub id.
            prefix: of the denoiser's keys; None if they have none.
            hotswap: put the weights in the place of those of an adapter that is loaded.
            kwargs: as diffusers takes them.

        Raises:
            UsageError: peft is missing, the adapter is no plain LoRA, or a part of it is of the dense model and a part
                of the slim one.
            PlanError: the adapter is of another model, or its matrices can't be sliced.
            CheckpointError: a shape isn't the slim model's, and the plan is missing.
        """
        if not is_peft_available():
            raise UsageError("LoRA needs peft; pip install 'slimdiff-fx[lora]'")
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            state_dict: Mapping[str, Tensor] = source
        else:
            fetching = {name: kwargs.pop(name, default) for name, default in _FETCHING.items()}
            state_dict, kwargs["metadata"] = _fetch_state_dict(
                source, user_agent=_USER_AGENT, allow_pickle=False, **fetching
            )
        start = "" if prefix is None else f"{prefix}."
        own = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
        sliced = {start + key: value for key, value in self._sliced(own).items()}
        super().load_lora_adapter(sliced, prefix=prefix, hotswap=hotswap, **kwargs)  # type: ignore[misc]

    def _sliced(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        refuse_kohya(state_dict)
        consumes = self._cut_linears()
        widths = widths_at_cuts(state_dict, consumes, self._widths(consumes))
        differing = next((each for each in widths if each.adapter != each.slim), None)
        if differing is None:
            return dict(state_dict)
        cuts = linear_cuts(self._plan_for(differing))
        refuse_mixed(widths, cuts)
        return slice_values(state_dict, cuts)

    def _cut_linears(self) -> dict[str, bool]:
        units: Mapping[str, Any] = self.config.slim_units  # type: ignore[attr-defined]
        return {
            path: consumes
            for name, entry in units.items()
            for path, consumes in linears_of_site(name, entry["kind"]).items()
        }

    def _widths(self, consumes: Mapping[str, bool]) -> dict[str, int]:
        assert isinstance(self, nn.Module)
        widths = {}
        modules = dict(self.named_modules())
        for path, of_columns in consumes.items():
            if path in modules:
                linear: Any = getattr(modules[path], "base_layer", modules[path])
                widths[path] = linear.in_features if of_columns else linear.out_features
        return widths

    def _plan_for(self, differing: Width) -> SlimPlan:
        try:
            plan: SlimPlan = self.plan_from_dense()  # type: ignore[attr-defined]
        except CheckpointError as error:
            raise CheckpointError(
                f"the adapter has {differing.adapter} {differing.side} at {differing.path!r}, where this slim model "
                f"has {differing.slim}; an adapter of the dense model is sliced by the plan, and {error}"
            ) from error
        return plan


# Weights by block, as set_adapters takes them, are spelt out by a function that diffusers keeps by the class's name.
_SET_ADAPTER_SCALE_FN_MAPPING["SlimUNet2DConditionModel"] = _SET_ADAPTER_SCALE_FN_MAPPING["UNet2DConditionModel"]
