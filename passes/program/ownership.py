"""Whose weights a module holds: its own, another module's, or still those that were validated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from passes.program.program import Program
from passes.program.torch_private import own_buffers, own_parameters


def own_tensors(module: nn.Module) -> None:
    """Put a copy in the place of every parameter and buffer, so that nothing else changes with them.

    A tensor that the module has under several names stays one; values, dtypes, devices and `requires_grad` stay.

    Args:
        module: changed in place. One tensor at a time is held twice.
    """
    copies: dict[int, tuple[Tensor, Tensor]] = {}  # the original too: an id is only unique while its object lives
    for tensors, name, tensor in _places(module):
        if id(tensor) not in copies:
            copies[id(tensor)] = (tensor, _copy(tensor))
        tensors[name] = copies[id(tensor)][1]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Give a module's parameters and buffers by path; what it has under several names stands under each."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def share_tensors(module: nn.Module, source: nn.Module) -> None:
    """Let a module use the parameters and buffers that another one has under the same names.

    Args:
        module: changed in place; what `source` doesn't have under a name and in the same shape stays its own.
        source: keeps what it has.
    """
    own = named_tensors(source)
    for path, part in module.named_modules(remove_duplicate=False):
        for tensors in (own_parameters(part), own_buffers(part)):
            for name, tensor in tensors.items():
                found = own.get(f"{path}.{name}" if path else name)
                if tensor is not None and found is not None and found.shape == tensor.shape:
                    tensors[name] = found


def owned(program: Program) -> Program:
    """Copy a program with its weights."""
    copied = program.copy()
    own_tensors(copied.graph_module)
    return replace(copied, validated=program.validated)


def sealed(program: Program) -> Program:
    """Mark a program as validated with the weights that it has now."""
    return replace(program, validated=weights_digest(program.graph_module))


def is_as_validated(program: Program) -> bool | None:
    """Say whether a program's weights are still those that were validated; None if they never were."""
    return None if program.validated is None else weights_digest(program.graph_module) == program.validated


def weights_digest(module: nn.Module) -> str:
    """Give the SHA-256 of a module's parameters and buffers: their names, dtypes, shapes and bytes.

    Version counters would cost nothing, but what goes through `.data` doesn't count: `.to(dtype)` and the fusing of
    adapters, the commonest changes of all.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(named_tensors(module).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(data.numpy().data)
    return found.hexdigest()


def _places(module: nn.Module) -> Iterator[tuple[dict[str, Tensor | None], str, Tensor]]:
    """Go through every place that holds a parameter or a buffer: the registry, the name in it, the tensor."""
    for part in module.modules():
        for registry in (own_parameters(part), own_buffers(part)):
            for name, tensor in registry.items():
                if tensor is not None:
                    yield registry, name, tensor


def _copy(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
