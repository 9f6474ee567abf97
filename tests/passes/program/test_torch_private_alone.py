"""Torch's private names stand in one file, and none of that file is unused."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from passes.program import torch_private

ROOT = Path(__file__).parents[3]
HOME = ROOT / "passes/program/torch_private.py"
OF_MODULES = {name for name in vars(nn.Module()) if name.startswith("_")}
OF_TORCH = OF_MODULES | {"_orig_mod", "_compiled_call_impl", "_opname"}
# Public words for what is private: a SymInt's node, and what hangs on it.
OF_SIZES = {"expr", "shape_env", "hint", "backed_var_to_val"}
# Private names of this project, of diffusers, and of Python.
NOT_OF_TORCH = {
    "_cut_modules",
    "_plan",
    "_taken_over",
    "_progress_bar_config",
    "_load_ip_adapter_weights",
    "_convert_ip_adapter_attn_to_diffusers",
    "_getframe",
}


def _private_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{name}" for name in modules]
            for name in modules:
                if name.startswith("torch.") and ("._" in name or "torch.fx.experimental" in name):
                    yield name
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            private = node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in NOT_OF_TORCH
            others = owner in ("self", "cls") or owner.rpartition(".")[2] == "aten"
            if (private and not others) or (node.attr in OF_SIZES and owner.endswith(".node")):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.startswith(("torch._", "torch.fx.experimental")) and " " not in node.value
            if node.value in OF_TORCH or module:
                yield node.value


def test_no_other_file_uses_private_names_of_torch() -> None:
    found = {
        file.relative_to(ROOT).as_posix(): names
        for floor in ("passes", "slimdiff_fx")
        for file in sorted((ROOT / floor).rglob("*.py"))
        if file != HOME and (names := sorted(_private_names(ast.parse(file.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "from torch._guards import tracing",
        "from torch import _dynamo",
        "import torch.utils._pytree",
        "from torch.fx.experimental import symbolic_shapes",
        "torch._dynamo.reset()",
        "graph._codegen",
        "size.node.expr",
        'getattr(model, "_orig_mod")',
        'importlib.import_module("torch._dynamo")',
    ],
)
def test_private_names_are_noticed(code: str) -> None:
    assert list(_private_names(ast.parse(code)))


def test_the_file_says_the_release_that_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pin,) = (line.removeprefix("torch==") for line in pins if line.startswith("torch=="))
    assert f"last checked with torch {pin}" in " ".join((torch_private.__doc__ or "").split())


def test_every_name_of_the_file_is_used() -> None:
    floors = [file for floor in ("passes", "slimdiff_fx") for file in (ROOT / floor).rglob("*.py") if file != HOME]
    used: set[str] = set()
    for file in floors:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == torch_private.__name__:
                used |= {alias.name for alias in node.names}
    functions = {name for name, value in vars(torch_private).items() if inspect.isfunction(value)}
    own = {name for name in functions if getattr(torch_private, name).__module__ == torch_private.__name__}
    assert (own | set(torch_private.__all__)) - used == set()
