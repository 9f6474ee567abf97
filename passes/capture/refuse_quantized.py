"""Tell a quantized model apart, and say why it can't be slimmed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx, nn

from passes.errors import UsageError

# Namespaces of operators that compute on integers, or go to integers and back.
_NAMESPACES = ("quantized_decomposed", "quantized", "torchao", "onednn.qconv", "onednn.qlinear", "quantize_affine")
# Modules of eager quantization hold packed weights, which no list of parameters shows.
_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "bitsandbytes.")
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def refuse_quantized(model: nn.Module) -> None:
    """Refuse a model whose weights or graph are quantized already.

    Raises:
        UsageError: names the first place where it shows.
    """
    place = next(quantized_places(model), None)
    if place is not None:
        raise UsageError(
            f"the model is quantized already ({place}): slimming solves for new float weights and proves them equal to "
            "the masked ones, and rounded weights with scales of the dense rows hold neither; slim the float model "
            "first, then quantize the slim one"
        )


def quantized_places(model: nn.Module) -> Iterator[str]:
    """Name where a model shows that it is quantized: tensors, modules, graph nodes."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_quantized(tensor):
            yield f"{name} is of type {type(tensor).__name__}, {str(tensor.dtype).removeprefix('torch.')}"
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_PACKAGES):
            yield f"{name or 'it'} is a module of type {type(module).__module__}.{type(module).__name__}"
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if str(node.target).removeprefix("torch.ops.").startswith(_NAMESPACES):
                    yield f"its graph calls {node.target}"


def is_quantized(tensor: Tensor) -> bool:
    """Say whether a tensor is of a quantizer's own type: torchao's, bitsandbytes', or torch's quantized dtypes."""
    return tensor.is_quantized or type(tensor) not in _PLAIN
