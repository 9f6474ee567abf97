"""Captures shared between tests: `torch.export` of a toy takes seconds, and most tests are about what comes after it.

A model that is made just as one that was captured before in this process gets that one's graph with its own weights, if
both give the same bits on the example's inputs. Whatever sits on a model, or was changed on its class, is captured
anew, and so is everything with `--real-captures`. Tests of `passes.capture.capture` itself call it, and get it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path

import slimdiff_fx.denoisers.families
from passes.capture.capture import capture
from passes.program.ownership import named_tensors, share_tensors
from passes.program.program import Program

# A toy; larger models are captured by few tests, and would stay in memory.
_MOST_PARAMETERS = 12_000_000
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("hooks") or name.endswith("_hooks_with_kwargs"))
_OF_MODULES = frozenset(vars(nn.Module()))


@pytest.fixture(scope="session", autouse=True)
def shared_captures(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("--real-captures"):
        yield
        return
    shared = SharedCaptures()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slimdiff_fx.denoisers.families, "capture", shared)
        yield


class SharedCaptures:
    """Stands for `passes.capture.capture.capture`.

    Attributes:
        captured: how many models were captured.
        given: how many were given the graph of another.
    """

    def __init__(self) -> None:
        self.captured = self.given = 0
        self._known: dict[Any, Program] = {}

    def __call__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        dynamic_shapes: Any = None,
        *,
        root: str = "",
        timestep: str | None = "timestep",
    ) -> Program:
        kwargs = dict(kwargs or {})
        key = _key(module, (args, kwargs), dynamic_shapes, root, timestep)
        known = None if key is None else self._known.get(key)
        if known is not None:
            program = _with_weights(known, module, args, kwargs, root)
            if program is not None:
                self.given += 1
                return program
        program = capture(module, args, kwargs, dynamic_shapes, root=root, timestep=timestep)
        self.captured += 1
        if key is not None:
            self._known[key] = program.copy()
        return program


def _with_weights(
    known: Program, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], root: str
) -> Program | None:
    """Give a graph with a module's weights; None if they don't belong together."""
    program = replace(known.copy(), args=args, kwargs=kwargs)
    model = module.get_submodule(root)
    missing = dict(program.graph_module.named_parameters(remove_duplicate=False)).keys() - named_tensors(model).keys()
    if missing:
        return None
    share_tensors(program.graph_module, model)
    training = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        with torch.no_grad():
            same = torch.equal(module(*args, **kwargs), program.graph_module(*args, **kwargs))
    finally:
        for name, part in module.named_modules():
            part.training = training[name]
    return program if same else None


def _key(module: nn.Module, inputs: Any, dynamic_shapes: Any, root: str, timestep: str | None) -> Any:
    """Give what decides a graph but for the weights; None where a model must be captured itself."""
    tensors = named_tensors(module)
    if sum(tensor.numel() for tensor in tensors.values()) > _MOST_PARAMETERS:
        return None
    if not all(
        bool(torch.isfinite(tensor.detach()).all()) for tensor in tensors.values() if tensor.is_floating_point()
    ):
        return None
    parts = []
    for path, part in module.named_modules(remove_duplicate=False):
        if any(getattr(part, hooks, None) for hooks in _HOOKS) or any(
            callable(getattr(type(part), name, None)) for name in vars(part)
        ):
            return None  # something sits on it
        parts.append((path, type(part), type(part).forward, type(part).__call__, _settings(part)))
    leaves, structure = tree_flatten(inputs)
    names = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return (
        tuple(parts),
        tuple((name, names[id(tensor)], _shape(tensor), tensor.requires_grad) for name, tensor in tensors.items()),
        structure,
        tuple(_shape(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves),
        repr(tree_flatten_with_path(dynamic_shapes)[0]),
        root,
        timestep,
        torch.get_num_threads(),
    )


def _settings(part: nn.Module) -> tuple[Any, ...]:
    """List what a module has beside its tensors and parts: numbers by value, and of anything else the class."""
    found = []
    for name, value in sorted(vars(part).items()):
        if name not in _OF_MODULES or name == "training":
            found.append((name, _setting(value)))
    return tuple(found)


def _setting(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Tensor):
        return (_shape(value), value.detach().flatten().tolist() if value.numel() < 10_000 else id(value))
    if isinstance(value, Mapping) and depth < 4:
        # Where a model was loaded from has no part in what it computes.
        return tuple((repr(key), _setting(each, depth + 1)) for key, each in value.items() if key != "_name_or_path")
    if isinstance(value, list | tuple) and depth < 4:
        return (type(value), tuple(_setting(each, depth + 1) for each in value))
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return value
    own = getattr(value, "__dict__", None)
    return (type(value), _setting(own, depth + 1) if own and depth < 4 else None)


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tensor.dtype, str(tensor.device), tensor.layout)
