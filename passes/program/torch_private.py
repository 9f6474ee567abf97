"""Torch's private names, all that are used here: what torch gives no public name for.

Another release of torch may rename or drop them without notice, so they are in this file and nowhere else, each with
what it is for; a test holds the code to that. All were last checked with torch 2.13.0. After raising torch, run
`tests/passes/program/test_torch_private.py`: for each it tries what is relied upon. Names of ATen operators, with an
underscore or not, are what exported graphs are written in, and stay where they are looked for.

Dynamo and Inductor take seconds to import, so they are reached through functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._guards import tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    # Arguments at any depth as a flat list, in the order in which torch.export makes placeholders of them.
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    # What torch.export runs a model on: a tensor with a shape and no data. Observers must not record it. The mode in
    # which a tensor was made (`fake_mode`) computes shapes with symbols.
    "FakeTensor",
    "FakeTensorMode",
    # Sees each ATen operator as it is called: value numbers are made with it.
    "TorchDispatchMode",
    # `tracing(None)` hides Dynamo's trace, so that a backend can export a graph inside it.
    "tracing",
]

# Sizes ----------------------------------------------------------------------------------------------------------------


def expression(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    """Give what a symbolic size is in terms of symbols: a SymPy expression."""
    return size.node.expr


def captured_values(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Mapping[Any, Any]:
    """Give the captured example's value of each symbol, of this size's and of all others of its capture."""
    values: Mapping[Any, Any] = size.node.shape_env.backed_var_to_val
    return values


def captured_size(size: torch.SymInt) -> int | None:
    """Give a symbolic size's value in the captured example; None if it has none."""
    hint: int | None = size.node.hint
    return hint


def one_is_dynamic() -> AbstractContextManager[None]:
    """Let torch.export leave a size dynamic that is 1 in the example, where it would take it for a constant."""
    context: AbstractContextManager[None] = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return context


# In a graph: states that a condition on sizes holds. The tracer reads it.
require: Any = torch._check


def written_guards(exported: ExportedProgram) -> list[str]:
    """Give the guards of an exported program, as expressions over `L["name"]`, without its sizes' ranges."""
    return exported._guards_code


def write_guards(exported: ExportedProgram, guards: Iterable[str]) -> None:
    """Replace the guards of an exported program: those that its saved file shows and that its module checks."""
    exported._guards_code = list(guards)


# Graphs and operators -------------------------------------------------------------------------------------------------


def share_signature(graph: fx.Graph, source: fx.Graph) -> None:
    """Let a graph take and return what another does: nested arguments by name, instead of one tensor after another."""
    graph.set_codegen(source._codegen)


def schema(operator: Any) -> Any:
    """Give an ATen operator's schema: `name` is "aten::view", `arguments` have a `name` each."""
    return operator._schema


def overload_name(operator: Any) -> str:
    """Give the part of an ATen operator's name after the dot: "Tensor" of aten.add.Tensor."""
    name: str = operator._overloadname
    return name


def operator_name(target: Any) -> str:
    """Give the name of what a node calls, of an operator without its overload; "" if it has none."""
    return str(getattr(target, "_opname", "") or getattr(target, "__name__", ""))


# Modules and tensors --------------------------------------------------------------------------------------------------

# What an `nn.Module` keeps its hooks in, by attribute.
FORWARD_HOOKS = "_forward_hooks"
FORWARD_PRE_HOOKS = "_forward_pre_hooks"
BACKWARD_HOOKS = "_backward_hooks"
STATE_DICT_HOOKS = "_state_dict_hooks"
STATE_DICT_PRE_HOOKS = "_state_dict_pre_hooks"
# And its parameters, buffers and parts. `Module.compile()` leaves an attribute of its own.
PARAMETERS, BUFFERS, MODULES = "_parameters", "_buffers", "_modules"
COMPILED_CALL = "_compiled_call_impl"


def own_parameters(module: nn.Module) -> dict[str, Any]:
    """Give a module's own parameters by name, without those of its parts.

    What is written into the dictionary becomes the module's, with none of the checks of `register_parameter`.
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Give a module's own buffers by name, as `own_parameters` does."""
    return module._buffers


def own_parts(module: nn.Module) -> dict[str, nn.Module | None]:
    """Give the modules directly in a module by name. Unlike `named_children`, one that has two names has both here."""
    return module._modules


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Give the names of a module's own buffers that are not in its state dict; the set can be changed."""
    return module._non_persistent_buffers_set


def changes(tensor: Tensor) -> int:
    """Count how often a tensor was changed in place. A tensor made in inference mode has no such count."""
    return tensor._version


def is_compiled(module: Any) -> bool:
    """Tell whether `torch.compile` wrapped a module."""
    return hasattr(module, "_orig_mod")


def uncompiled(module: Any) -> Any:
    """Give the module that `torch.compile` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)


# Dynamo ---------------------------------------------------------------------------------------------------------------

# Where a tensor that Dynamo made an input came from reads like L['self']._modules['conv_in']._parameters['weight'].
SOURCE_STEP = r"_(?:modules|parameters|buffers)(?:'\])?\['([^']+)'\]"
SOURCE_TENSOR = r".*_(?:parameters|buffers)(?:'\])?\['[^']+'\]"


def import_dynamo() -> None:
    """Import Dynamo now, instead of when it is first used."""
    importlib.import_module("torch._dynamo")


def lookup_backend(backend: str | Callable[..., Any]) -> Callable[..., Callable[..., Any]]:
    """Give a backend of `torch.compile` by its name; a function is given back."""
    found: Callable[..., Callable[..., Any]] = torch._dynamo.lookup_backend(backend)
    return found


def recompile_limit() -> int:
    """Give how many graphs Dynamo compiles of one function before it gives up."""
    return int(torch._dynamo.config.recompile_limit)


def fail_beyond_recompile_limit() -> None:
    """Let Dynamo raise an error when it gives up, where it would run the model uncompiled and only log it."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True


# Inductor -------------------------------------------------------------------------------------------------------------


def compile_package(exported: ExportedProgram, path: Path, settings: Mapping[str, Any]) -> None:
    """Compile an exported program to machine code, in one file, with AOTInductor. Needs a C++ compiler."""
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=dict(settings))


def load_package(path: Path) -> Callable[..., Any]:
    """Load what `compile_package` wrote, as a function of the program's arguments."""
    package: Callable[..., Any] = torch._inductor.aoti_load_package(str(path))
    return package
