"""Tell whether two modules compute the same thing at given sizes, without computing it.

Both are run on meta tensors, which have shapes and no data. Every tensor gets a number: a hash of the operator that
made it, the numbers of that operator's inputs and its other arguments. Equal numbers of the results mean that the same
operators were applied to the same parameters and inputs in the same way. Copies that only change the layout in memory
(`contiguous`, `clone`) hand their input's number on.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from passes.program.torch_private import TorchDispatchMode, overload_name, schema, tree_flatten, tree_unflatten

# Same values, perhaps laid out otherwise or under another name.
_SAME = frozenset({"clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy", "detach_"})
# These take all of their input, in order, where the shape stays.
_SAME_IF_SHAPE = frozenset({"slice", "expand", "view", "_unsafe_view", "reshape", "_reshape_alias"})
_RENAMED = {"_unsafe_view": "view", "reshape": "view", "_reshape_alias": "view"}


# Up-sampling to a size or by factors; to twice the size, both read the same pixels: 1/2 is exact in any precision.
_BY_FACTOR = frozenset({"upsample_nearest2d"})

_META = torch.device("meta")


@functools.cache
def _known(func: Any) -> tuple[str, bool]:
    """Give an operator's name and whether it takes a device."""
    known = schema(func)
    return known.name.removeprefix("aten::"), any(argument.name == "device" for argument in known.arguments)


def _is_doubled(source: Tensor, result: Tensor, factors: tuple[Any, ...]) -> bool:
    twice = all(after == 2 * before for before, after in zip(source.shape[2:], result.shape[2:], strict=True))
    return twice and all(factor in (None, 2) for factor in factors)


class _Numbering(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names
        # The tensor is kept beside its number: a freed tensor's id would come back as another's.
        self._numbers: dict[int, tuple[Tensor, str]] = {}

    def number(self, tensor: Tensor) -> str:
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)][1]
        if id(tensor) in self._names:
            return self._names[id(tensor)]
        if tensor.device.type != "meta":
            # A constant of the code; as bytes, for numpy knows no bfloat16.
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return hashlib.sha256(data + str((tensor.dtype, tuple(tensor.shape))).encode()).hexdigest()
        return f"unknown {id(tensor)}"

    def _on_meta(self, tensor: Tensor) -> Tensor:
        """Put a constant where everything else is, under the number of its values."""
        if tensor.device.type == "meta":
            return tensor
        shadow = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._numbers[id(shadow)] = (shadow, self.number(tensor))
        return shadow

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # The graph names the device that it was captured on; values are numbered on "meta" whatever that is.
        kwargs = {key: value for key, value in (kwargs or {}).items() if key != "device" or value is None}
        name, takes_device = _known(func)
        if takes_device:
            kwargs["device"] = _META
        flat, spec = tree_flatten((args, kwargs))
        if name not in _SAME:
            flat = [self._on_meta(value) if isinstance(value, Tensor) else value for value in flat]
            args, kwargs = tree_unflatten(flat, spec)
        inputs = [self.number(value) if isinstance(value, Tensor) else repr(value) for value in flat]
        result = func(*args, **kwargs)
        same = (
            name in _SAME
            or (name in _SAME_IF_SHAPE and result.shape == flat[0].shape)
            or (name == "_to_copy" and result.dtype == flat[0].dtype)
        )
        if same:
            own = self.number(flat[0])
        else:
            text = "|".join((_RENAMED.get(name, name), overload_name(func), *inputs))
            if name in _RENAMED or name == "view":
                text = "|".join(("view", inputs[0], str(tuple(result.shape))))
            elif name in _BY_FACTOR and _is_doubled(flat[0], result, args[2:]):
                text = "|".join((name, "doubled", inputs[0]))
            own = hashlib.sha256(text.encode()).hexdigest()
        for index, value in enumerate(tree_flatten(result)[0]):
            if isinstance(value, Tensor):
                self._numbers[id(value)] = (value, own if index == 0 else f"{own}#{index}")
        return result


def value_number(module: nn.Module, args: Any, kwargs: Any, names: Mapping[int, str]) -> str:
    """Number what `module(*args, **kwargs)` computes.

    Args:
        module: its parameters are only looked at, never read.
        args: positional inputs, of which shape and dtype matter.
        kwargs: keyword inputs, likewise.
        names: by id, names for the parameters and buffers that the compared modules share.

    Returns:
        A hash of the results' data flow, with their shapes and dtypes.
    """
    numbers: dict[int, str] = {}
    kept: list[Tensor] = []

    def empty(value: Tensor, number: str) -> Tensor:
        shadow = torch.empty(value.shape, dtype=value.dtype, device="meta")
        numbers[id(shadow)] = number
        kept.append(shadow)
        return shadow

    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    shadows = {name: empty(value, names.get(id(value), name)) for name, value in tensors}
    flat, spec = tree_flatten((args, kwargs))
    inputs = [empty(value, f"input {at}") if isinstance(value, Tensor) else value for at, value in enumerate(flat)]
    args, kwargs = tree_unflatten(inputs, spec)
    with torch.no_grad(), _Numbering(numbers) as numbering:
        result = torch.func.functional_call(module, shadows, args, kwargs)
    return "|".join(
        f"{numbering.number(value)}:{tuple(value.shape)}:{value.dtype}"
        for value in tree_flatten(result)[0]
        if isinstance(value, Tensor)
    )
