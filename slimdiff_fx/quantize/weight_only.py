"""Store the weights of an eager denoiser in int8, by torchao's `quantize_`."""

from __future__ import annotations

import copy
import warnings
from typing import TypeVar

from torch import nn

from passes.capture.refuse_quantized import quantized_places
from passes.errors import ExportError, UsageError
from slimdiff_fx.other_libraries import first_line

Model = TypeVar("Model", bound=nn.Module)


def quantize_weights(model: Model) -> Model:
    """Copy a denoiser and store its linears' weights in int8, with a scale for each output channel.

    Activations and arithmetic stay in float, and so do convolutions, which torchao leaves alone. It goes where the
    model went: `pipe.unet = quantize_weights(pipe.unet)`.

    Args:
        model: eager, dense or slim; it is left as it is.

    Raises:
        ExportError: torchao is not installed, or fails.
        UsageError: the model is quantized already.
    """
    place = next(quantized_places(model), None)
    if place is not None:
        raise UsageError(f"the model is quantized already ({place}); give the float one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise ExportError("torchao is not installed: pip install 'slimdiff-fx[quant]'") from error
        quantized = copy.deepcopy(model)
        try:
            quantize_(quantized, Int8WeightOnlyConfig())
        except Exception as error:  # torchao raises errors of many classes
            raise ExportError(f"torchao can't quantize the model: {first_line(error)}") from error
    return quantized


def weight_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's parameters and buffers as they are stored, scales of quantized ones included."""
    stored = 0
    for tensor in (*model.parameters(), *model.buffers()):
        names = getattr(tensor, "tensor_data_names", None)
        parts = [tensor] if names is None else [getattr(tensor, name) for name in names]
        stored += sum(part.numel() * part.element_size() for part in parts)
    return stored
