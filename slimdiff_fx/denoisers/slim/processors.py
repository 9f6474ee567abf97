"""Attention processors with weights of their own on a slim model: those of whole heads would be split wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import nn

from passes.errors import UsageError

_LINEARS = ("to_q", "to_k", "to_v")


class SlimProcessorsMixin:
    """Refuses processors that are made for the heads of the dense model."""

    def set_attn_processor(self, processor: Any) -> None:
        """Set the processors as diffusers does.

        `load_attn_procs` and `load_ip_adapter` call this. A processor splits what its own queries, keys and values give
        by the head count of the attention: where heads are gone, those of the dense model would be split in other
        places, and nothing would say so.

        Args:
            processor: one for all attentions, or by name.

        Raises:
            UsageError: a processor has queries, keys or values of another width than the attention that was cut.
        """
        assert isinstance(self, nn.Module)
        units: Mapping[str, Any] = self.config.slim_units  # type: ignore[assignment, union-attr]
        for name in units:
            attention = self.get_submodule(name)
            own = processor.get(f"{name}.processor") if isinstance(processor, Mapping) else processor
            if isinstance(attention, Attention) and isinstance(own, nn.Module):
                _refuse_dense(name, attention, own)
        super().set_attn_processor(processor)  # type: ignore[misc]


def _refuse_dense(name: str, attention: nn.Module, processor: nn.Module) -> None:
    for path, module in processor.named_modules():
        linear = next((each for each in _LINEARS if path.startswith(each)), None)
        if linear is None or not isinstance(module, nn.Linear):
            continue
        expected: Any = getattr(attention, linear)
        if module.out_features != expected.out_features:
            raise UsageError(
                f"{name!r}: {type(processor).__name__} has {module.out_features} channels at {path!r}, and the slim "
                f"attention {expected.out_features}: it was trained for the dense model, and is used there"
            )
