"""Turn a pipeline's call of its denoiser into a call of the captured program."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from passes.errors import UsageError
from slimdiff_fx.denoisers.families import DenoiserInputs

# Changes what the call returns, not what it computes.
_IGNORED = ("return_dict",)


def translate_call(
    inputs: DenoiserInputs, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the arguments that the denoiser was called with into the program's order.

    Args:
        inputs: how the denoiser was captured.
        args: positional arguments of the denoiser's call.
        kwargs: keyword arguments of it.

    Returns:
        Positional and keyword arguments of the program.

    Raises:
        UsageError: the call gives the denoiser something that the capture doesn't know, such as ControlNet residuals or
            attention arguments. They would be lost silently otherwise.
    """
    denoiser = getattr(inputs.module, inputs.root)
    given = dict(inspect.signature(type(denoiser).forward).bind(denoiser, *args, **kwargs).arguments)
    given.pop("self", None)
    batch = args[0].shape[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor)).shape[0]
    names = list(inspect.signature(inputs.module.forward).parameters)
    taken: dict[str, Any] = {}
    examples = {**dict(zip(names, inputs.args, strict=False)), **inputs.kwargs}
    for name, example in examples.items():
        value = given.pop(name, None)
        if value is None:
            raise UsageError(f"the pipeline gives {type(denoiser).__name__} no {name}, which it was captured with")
        taken[name] = _fit(name, value, example, batch, denoiser)
    for name, value in given.items():
        if name not in _IGNORED and not _empty(value):
            raise UsageError(
                f"the pipeline gives {type(denoiser).__name__} {name}, which the captured program doesn't take; "
                "unload adapters for calibration, and calibrate without a ControlNet"
            )
    positional = tuple(taken[name] for name in names[: len(inputs.args)])
    return positional, {name: taken[name] for name in inputs.kwargs}


def _fit(name: str, value: Any, example: Any, batch: int, denoiser: torch.nn.Module) -> Any:
    """Give a value the example's type, dtype and batch dimension."""
    if isinstance(example, Mapping):
        unknown = [key for key in value if key not in example and not _empty(value[key])]
        missing = [key for key in example if value.get(key) is None]
        if unknown or missing:
            raise UsageError(
                f"the pipeline's {name} hold {', '.join(value)}, the captured program takes {', '.join(example)}; "
                "unload adapters for calibration"
            )
        return {key: _fit(key, value[key], example[key], batch, denoiser) for key in example}
    if isinstance(example, tuple):
        if len(value) != len(example):
            raise UsageError(
                f"the pipeline gives {type(denoiser).__name__} {len(value)} {name}, the captured program takes "
                f"{len(example)}"
            )
        return tuple(_fit(name, each, other, batch, denoiser) for each, other in zip(value, example, strict=True))
    tensor = torch.as_tensor(value, device=example.device).to(example.dtype)
    if tensor.dim() < example.dim():
        tensor = tensor.reshape(-1).expand(batch)
    elif tensor.dim() == 1 and tensor.shape[0] == 1 and batch > 1:
        tensor = tensor.expand(batch)
    return tensor


def _empty(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_empty(entry) for entry in value.values())
    return value is None or (isinstance(value, tuple | list) and not value)
