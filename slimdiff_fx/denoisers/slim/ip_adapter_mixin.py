"""IP-Adapter on a slim UNet: its keys and values lose the heads that the cross-attention has lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from passes.errors import UsageError
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.denoisers.slim.lora import LinearCut, cut_rows, linear_cuts


class SlimIPAdapterMixin:
    """Slices IP-Adapters of the dense model when they are loaded."""

    def _load_ip_adapter_weights(self, *args: Any, **kwargs: Any) -> None:
        """Take over diffusers' hook for `load_ip_adapter`.

        Raises:
            UsageError: heads of a cross-attention were made narrower. The best narrower keys for a text are not those
                for a picture that calibration has never seen.
            PlanError: the adapter is of another model.
            CheckpointError: the plan is missing.
        """
        self._cross_attention_cuts()  # refuses before anything is changed
        super()._load_ip_adapter_weights(*args, **kwargs)  # type: ignore[misc]

    def _convert_ip_adapter_attn_to_diffusers(self, *args: Any, **kwargs: Any) -> Any:
        """Slice the processors before they are put in their places."""
        cuts = self._cross_attention_cuts()
        processors: Any = super()._convert_ip_adapter_attn_to_diffusers(*args, **kwargs)  # type: ignore[misc]
        for name, processor in processors.items():
            path = name.removesuffix(".processor")
            for mine, linears in (("to_k", "to_k_ip"), ("to_v", "to_v_ip")):
                cut = cuts.get(f"{path}.{mine}")
                if cut is not None and isinstance(processor, nn.Module):
                    for linear in getattr(processor, linears):
                        linear.weight = nn.Parameter(cut_rows(cut, linear.weight.detach()), requires_grad=False)
                        linear.out_features = len(linear.weight)
        return processors

    def _cross_attention_cuts(self) -> Mapping[str, LinearCut]:
        units: Mapping[str, Any] = self.config.slim_units  # type: ignore[attr-defined]
        touched = [name for name in units if name.endswith("attn2")]
        if not touched:
            return {}
        narrow = next((name for name in touched if units[name].get("width") is not None), None)
        if narrow is not None:
            raise UsageError(
                f"{narrow!r} has narrower heads, and an IP-Adapter brings keys and values for whole ones; slim with "
                '`method="obs"`, which removes whole heads, or use the IP-Adapter on the dense model'
            )
        plan: SlimPlan = self.plan_from_dense()  # type: ignore[attr-defined]
        return linear_cuts(plan)
