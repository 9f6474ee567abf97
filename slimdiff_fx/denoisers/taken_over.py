"""A dense model whose weights became the slim one's: it holds none any more, and says so."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from passes.errors import UsageError
from passes.program.torch_private import own_buffers, own_parameters


def take_over(model: nn.Module) -> None:
    """Take a dense model's weights out of it, and have it say so when it is called or saved.

    Args:
        model: its modules stay, with empty tensors of the same dtypes and devices, which pipelines ask for before a
            call; models that share its weights keep them.
    """
    for part in model.modules():
        for name, parameter in own_parameters(part).items():
            if parameter is not None:
                own_parameters(part)[name] = nn.Parameter(_empty(parameter), requires_grad=False)
        for name, buffer in own_buffers(part).items():
            if buffer is not None:
                own_buffers(part)[name] = _empty(buffer)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        refuse_taken_over(model)

    for name in ("forward", "state_dict", "load_state_dict"):
        setattr(model, name, refuse)
    model._taken_over = True  # type: ignore[assignment]


def refuse_taken_over(model: nn.Module) -> None:
    """Refuse a model whose weights were taken over.

    Raises:
        UsageError: it has none of its own any more.
    """
    if vars(model).get("_taken_over"):
        raise UsageError(
            f"this {type(model).__name__} was slimmed in place: its weights are the slim model's now. Use the result's "
            "model or pipe, load the dense model anew, or slim without in_place"
        )


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
