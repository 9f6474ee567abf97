"""What sits on a diffusers model: its modules, one by one, beside those of a fresh model of the same configuration.

A saved folder holds a configuration and weights, and gives back what the class makes of them. So whatever else a model
carries is lost: a patched method, a hook, a replaced class, a number set on a block. Nothing here knows the libraries
that put such things there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, cast

import torch
from diffusers import ModelMixin
from torch import nn

from passes.program.torch_private import (
    COMPILED_CALL,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    STATE_DICT_HOOKS,
    STATE_DICT_PRE_HOOKS,
    own_buffers,
    own_parameters,
)
from slimdiff_fx.other_libraries import quiet_libraries

_PLAIN = (bool, int, float, str, type(None))
_CALLABLE = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)
_HOOKS = {
    FORWARD_PRE_HOOKS: "a forward pre-hook",
    FORWARD_HOOKS: "a forward hook",
    STATE_DICT_PRE_HOOKS: "a hook on its state dict",
    STATE_DICT_HOOKS: "a hook on its state dict",
}
# Modes of running and training, which change nothing that is computed, and what is compared by itself.
_ASIDE = {*vars(nn.Module()), "gradient_checkpointing", "_gradient_checkpointing_func", "_internal_dict", "processor"}
_OFFLOADING, _REGISTRY, _FORWARD = "_hf_hook", "_diffusers_hook", "forward"
_ASIDE |= {_OFFLOADING, _REGISTRY, _FORWARD, COMPILED_CALL}


@dataclass(frozen=True)
class Alteration:
    """Something on a model that a fresh one doesn't have.

    Attributes:
        where: path of the module; "" for the model itself.
        what: in words that follow the path.
        kind: "class", "hook", "forward", "attribute" or "structure".
        by: package of what was put there, and the attribute's name where it is one.
    """

    where: str
    what: str
    kind: str
    by: str


def saved_class(model: nn.Module) -> type[ModelMixin]:
    """Give the class that a saved folder would name: a user's own subclass isn't in it."""
    for each in type(model).__mro__:
        if _package(each.__module__) in ("diffusers", "slimdiff_fx"):
            return cast("type[ModelMixin]", each)
    return cast("type[ModelMixin]", type(model))


def fresh_model(model: Any) -> nn.Module:
    """Build what the model's configuration gives, on no memory.

    Raises:
        CheckpointError: a slim model's entries in it are garbled.
    """
    # The linears of a fresh model draw their weights: nobody's random numbers shall move by that.
    with quiet_libraries(), torch.random.fork_rng(devices=()), torch.device("meta"):
        return cast(nn.Module, cast(Any, saved_class(model)).from_config(model.config))


def alterations(model: nn.Module, fresh: nn.Module, narrowed: Container[str] = ()) -> Iterator[Alteration]:
    """List what is on a model and not on a fresh one, from the outermost module inwards.

    Args:
        model: a diffusers model.
        fresh: see `fresh_model`.
        narrowed: paths of modules whose widths are others on purpose.
    """
    expected = dict(fresh.named_modules())
    for name, module in model.named_modules():
        if name in expected:
            twin = expected.pop(name)
            yield from _of_use(name, module, twin, type(fresh) if name == "" else None)
            if name not in narrowed:
                yield from _attributes(name, module, twin, is_root=name == "")
                yield from _shapes(name, module, twin)
        else:
            yield Alteration(name, f"is a {type(module).__name__} that its configuration doesn't give", "structure", "")
            return
    for name, module in expected.items():
        yield Alteration(name, f"is missing, a {type(module).__name__}", "structure", "")


def _of_use(name: str, module: nn.Module, fresh: nn.Module, saved: type | None) -> Iterator[Alteration]:
    found = _changed_class(type(module), saved or type(fresh))
    if found is not None:
        yield Alteration(name, found, "class", _package(type(module).__module__))
    yield from _hooks(name, module, fresh)


def _shapes(name: str, module: nn.Module, fresh: nn.Module) -> Iterator[Alteration]:
    mine, theirs = (
        {
            key: tuple(values.shape)
            for key, values in (*own_parameters(each).items(), *own_buffers(each).items())
            if values is not None
        }
        for each in (module, fresh)
    )
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            now, given = (f"of shape {list(shapes[key])}" if key in shapes else "absent" for shapes in (mine, theirs))
            yield Alteration(name, f"has {key!r} {now}, where its configuration gives one {given}", "structure", "")


def _changed_class(now: type, expected: type) -> str | None:
    """Say what a class does otherwise; a subclass that overrides nothing does nothing otherwise."""
    if now is expected:
        return None
    if not issubclass(now, expected):
        return f"is a {now.__name__}, where its configuration gives a {expected.__name__}"
    for each in now.__mro__[: now.__mro__.index(expected)]:
        for attribute in vars(each):
            dunder = attribute.startswith("__") and attribute != "__call__"
            if not dunder and not attribute.startswith("_abc_") and hasattr(expected, attribute):
                return f"is a {now.__name__}, whose {attribute!r} is not that of {expected.__name__}"
    return None


def _hooks(name: str, module: nn.Module, fresh: nn.Module) -> Iterator[Alteration]:
    offloading = getattr(module, _OFFLOADING, None)
    if offloading is not None:
        yield Alteration(name, f"has a hook, {type(offloading).__name__}", "hook", type(offloading).__module__)
    # Pipelines leave an empty register behind.
    for hook in getattr(getattr(module, _REGISTRY, None), "hooks", {}).values():
        yield Alteration(name, f"has a hook, {type(hook).__name__}", "hook", type(hook).__module__)
    own = vars(module).get(_FORWARD)
    if own is not None and not _is_own_method(module, _FORWARD, own):
        yield Alteration(name, f"has another forward than {type(module).__name__}", "forward", _maker(own))
    for attribute, words in _HOOKS.items():
        mine, theirs = (list(getattr(each, attribute).values()) for each in (module, fresh))
        for hook in mine[len(theirs) :]:
            yield Alteration(name, f"has {words}, {_name(hook)}", "hook", _maker(hook))


def _attributes(name: str, module: nn.Module, fresh: nn.Module, *, is_root: bool) -> Iterator[Alteration]:
    now, given, missing = vars(module), vars(fresh), object()
    for attribute in sorted(now.keys() | given.keys()):
        if attribute in _ASIDE or _is_ours(type(fresh), attribute):
            continue
        mine = now.get(attribute)
        theirs = given.get(attribute, missing)
        if theirs is missing:
            theirs = getattr(type(fresh), attribute, missing)
        if theirs is missing:
            # On the model itself, libraries keep attributes of their own that no block reads; FreeU sets attributes on
            # blocks, which read them. Functions, tensors and objects are read only by what put them there.
            if not is_root and _is_plain(mine) and not _is_off(mine):
                what = f"has {attribute!r} set to {mine!r}, which a fresh one has not"
                yield Alteration(name, what, "attribute", attribute)
        elif not _is_own_method(module, attribute, mine) and not _is_same(mine, theirs):
            what = f"has {attribute!r} set to {mine!r}, where its configuration gives {theirs!r}"
            if not (_is_plain(mine) and _is_plain(theirs)):
                what = f"has another {attribute!r} than its configuration gives"
            yield Alteration(name, what, "attribute", attribute)


def _is_same(mine: Any, theirs: Any) -> bool:
    if _is_plain(theirs):
        if _is_plain(mine):
            return _listed(mine) == _listed(theirs) or (_is_off(mine) and _is_off(theirs))
        # What was None is often a table or an object made at the first call.
        return theirs is None and not isinstance(mine, _CALLABLE)
    if isinstance(theirs, _CALLABLE):
        return isinstance(mine, _CALLABLE) and _code(mine) is _code(theirs)
    return isinstance(theirs, (Mapping, torch.Tensor)) or type(mine) is type(theirs)


def _is_ours(model_class: type, attribute: str) -> bool:
    """Say whether the slim classes declare it: what they note of themselves, such as their plan."""
    return any(attribute in vars(each) for each in model_class.__mro__ if _package(each.__module__) == "slimdiff_fx")


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == [] or value == ()


def _listed(value: Any) -> Any:
    # A configuration that was read from a file has lists for tuples; NaN equals itself by its text.
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else (type(value) is str, repr(value))


def _is_own_method(module: nn.Module, attribute: str, value: Any) -> bool:
    """Say whether a method on an instance is the class's own, as hooks leave it when they are removed."""
    return (
        isinstance(value, MethodType)
        and value.__self__ is module
        and value.__func__ is getattr(type(module), attribute, None)
    )


def _unwrapped(function: Any) -> Callable[..., Any]:
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        if inner is None:
            return cast("Callable[..., Any]", function)
        function = inner


def _maker(function: Any) -> str:
    """Give the package that wrote a function: `functools.wraps` copies the wrapped one's name, not its globals."""
    function = _unwrapped(function)
    spaces = getattr(function, "__globals__", None)
    name = spaces.get("__name__", "") if spaces else getattr(type(function), "__module__", "")
    return str(name)


def _code(function: Any) -> Any:
    """Give what tells functions apart: a closure is made anew for each model, and `functools.wraps` copies names."""
    function = _unwrapped(function)
    return getattr(function, "__code__", function)


def _name(function: Any) -> str:
    function = _unwrapped(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _package(module: str) -> str:
    return module.partition(".")[0]
