"""Say in words that a model is slim where diffusers' dense classes would tell of shapes.

A dense class that reads a slim folder, a control network or a motion model made from a slim UNet, and guidance that
counts a slim UNet's heads by its configuration, all fail in diffusers, with our classes nowhere in between. So a few of
its methods are wrapped here, and nowhere else: they do what they did, and where they fail on something slim, a sentence
takes the place of the error. See docs/adr/0033.

Imports nothing: torch calls `guard` at its own start, and diffusers' modules are wrapped when somebody imports them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any

from passes.errors import CheckpointError, UsageError

_SOURCE = "pretrained_model_name_or_path"


def guard() -> None:
    """Wrap what is imported already, and the rest when it is; once and no more."""
    for name in list(_WRAPPERS):
        if name in sys.modules:
            _wrap(_WRAPPERS.pop(name), sys.modules[name])
    if _WRAPPERS and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Leaves finding and loading to the others, and wraps a module once it is loaded."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        wrap = _WRAPPERS.pop(name, None)
        if not _WRAPPERS and self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = None if wrap is None else importlib.util.find_spec(name)
        if wrap is None or spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: Any) -> None:
            loader.exec_module = execute  # type: ignore[method-assign]
            execute(module)
            _wrap(wrap, module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap(wrap: Callable[[Any], None], module: Any) -> None:
    # With a diffusers that lacks these functions, loading still fails, with diffusers' own message on shapes.
    with contextlib.suppress(AttributeError):
        wrap(module)


def _wrap_models(module: Any) -> None:
    _wrap_from_pretrained(module.ModelMixin)
    _wrap_all(module.ModelMixin, _wrap_from_unet)


def _wrap_auto_model(module: Any) -> None:
    _wrap_from_pretrained(module.AutoModel)


def _wrap_pipelines(module: Any) -> None:
    _wrap_all(module.DiffusionPipeline, _wrap_self_attention_guidance)


_WRAPPERS: dict[str, Callable[[Any], None]] = {
    "diffusers.models.modeling_utils": _wrap_models,
    "diffusers.models.auto_model": _wrap_auto_model,
    "diffusers.pipelines.pipeline_utils": _wrap_pipelines,
}


def _wrap_all(base: Any, wrap: Callable[[Any], None]) -> None:
    """Wrap methods of all subclasses, those that aren't written yet too."""
    before = base.__init_subclass__.__func__ if "__init_subclass__" in vars(base) else None

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        if before is None:
            super(base, cls).__init_subclass__(**kwargs)
        else:
            before(cls, **kwargs)
        wrap(cls)

    base.__init_subclass__ = classmethod(init_subclass)
    for each in set(_below(base)):
        wrap(each)


def _below(base: type[Any]) -> Iterator[type[Any]]:
    each: type[Any]
    for each in base.__subclasses__():
        yield each
        yield from _below(each)


def _wrap_from_pretrained(owner: Any) -> None:
    load = owner.from_pretrained.__func__

    @functools.wraps(load)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(cls, *args, **kwargs)
        except (ValueError, RuntimeError, TypeError) as error:
            options = dict(kwargs)
            source = args[0] if args else options.pop(_SOURCE, None)
            slim = None if _is_slim_class(cls) else _slim_class_of(cls, source, options)
            if slim is None:
                raise
            raise CheckpointError(
                f"{source} holds a slim model, which {cls.__name__} can't load: its widths are those of "
                f"{slim}; call slimdiff_fx.{slim}.from_pretrained, or DiffusionPipeline.from_pretrained on the "
                "whole folder"
            ) from error

    owner.from_pretrained = classmethod(from_pretrained)


def _slim_class_of(cls: Any, source: Any, options: dict[str, Any]) -> str | None:
    """Name the slim class that a folder's configuration names; None where it names another, or can't be read."""
    fetching = ("cache_dir", "local_files_only", "token", "revision", "subfolder", "proxies")
    try:
        config = cls.load_config(source, **{name: options[name] for name in fetching if name in options})
    except Exception:  # the first error is the one to report
        return None
    return str(config["_class_name"]) if config.get("slim_units") else None


def _wrap_from_unet(cls: Any) -> None:
    for name, method in list(vars(cls).items()):
        if name.startswith("from_unet") and isinstance(method, classmethod):
            setattr(cls, name, classmethod(_told_of_unet(method.__func__)))


def _told_of_unet(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def from_unet(cls: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return make(cls, *args, **kwargs)
        except RuntimeError as error:  # of loading weights into the dense shapes
            slim = next((each for each in (*args, *kwargs.values()) if _is_slim(each)), None)
            if slim is None or isinstance(error, NotImplementedError):
                raise
            raise UsageError(
                f"{cls.__name__} takes over a UNet's weights in their dense shapes, and this {type(slim).__name__} is "
                "slim; make it from the dense UNet that this one was slimmed from"
            ) from error

    return from_unet


def _wrap_self_attention_guidance(cls: Any) -> None:
    call = vars(cls).get("__call__")
    if "sag_masking" not in vars(cls) or call is None:
        return

    @functools.wraps(call)
    def draw(self: Any, *args: Any, **kwargs: Any) -> Any:
        unet, given = self.unet, inspect.signature(call).bind_partial(self, *args, **kwargs)
        given.apply_defaults()
        if _is_slim(unet) and given.arguments["sag_scale"] > 0:
            heads = unet.config.attention_head_dim
            heads = heads[-1] if isinstance(heads, (list, tuple)) else heads
            attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
            if attention.heads != heads:
                raise UsageError(
                    f"{cls.__name__} reads the attention of the UNet's middle block as {heads} heads, and this "
                    f"{type(unet).__name__} is slim and has {attention.heads} there; use the dense UNet, or another "
                    "guidance (sag_scale=0)"
                )
        return call(self, *args, **kwargs)

    cls.__call__ = draw


def _is_slim_class(cls: type) -> bool:
    return any(each.__module__ == "slimdiff_fx" for each in cls.__mro__)


def _is_slim(value: Any) -> bool:
    return _is_slim_class(type(value)) and bool(getattr(value.config, "slim_units", None))
