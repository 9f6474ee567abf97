"""A pytest plugin that runs the tests of diffusers' mixins on slim classes. Part of `benchmarks.diffusers_mixins`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention

from slimdiff_fx.denoisers.slim.models import SLIM_CLASSES

Test = tuple[str, str, str]  # dense class, mixin, test
_MIXINS = "tests.models.testing_utils."
# Loads published checkpoints of gigabytes, which no slim class is for.
_LEFT_OUT = ("SingleFileTesterMixin",)
# Is given the names of classes that it expects.
_CHECKPOINTED = "test_gradient_checkpointing_is_applied"


@dataclass(frozen=True)
class Settings:
    """How the tests are run.

    Attributes:
        forced: also those that ask for an accelerator, on what there is.
        uniform: blocks of one kind are cut alike; otherwise heads are narrower in other places of each.
        options: for pytest.
    """

    forced: bool = False
    uniform: bool = False
    options: tuple[str, ...] = ()


class Mixins:
    """A pytest plugin that keeps the tests of mixins, and puts slim classes in the place of dense ones."""

    def __init__(self, settings: Settings, *, slim: bool) -> None:
        self.slim = slim
        self.settings = settings
        self.outcomes: dict[Test, str] = {}
        self._mixins: dict[str, Test] = {}
        self._prepared: set[type] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests of mixins; take off what skips them for want of an accelerator, if that is asked for."""
        kept = []
        for item in items:
            mixin = _mixin(item)
            if mixin is None or mixin in _LEFT_OUT:
                continue
            if item.cls not in self._prepared:
                self._prepared.add(item.cls)
                dense = item.cls().model_class
                item.cls.dense_name = dense.__name__
                if self.slim:
                    _make_slim(item.cls, dense, uniform=self.settings.uniform)
            if self.settings.forced:
                for node in item.listchain():
                    node.own_markers = [mark for mark in node.own_markers if not _asks_for_accelerator(mark)]
            self._mixins[item.nodeid] = (item.cls.dense_name, mixin, f"{item.cls.__name__}.{item.name}")
            kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note how each test ended; an expected failure counts as a skip."""
        if report.when == "call" or report.outcome != "passed":
            outcome = "passed" if hasattr(report, "wasxfail") and report.outcome == "passed" else report.outcome
            self.outcomes.setdefault(self._mixins[report.nodeid], outcome)


def _mixin(item: Any) -> str | None:
    """Name the mixin that a test comes from, overridden or not; None if it is the model's own."""
    name = getattr(item, "originalname", None) or item.name
    for each in item.cls.__mro__ if item.cls is not None else ():
        if _is_mixin(each) and name in vars(each):
            return str(each.__name__)
    return None


def _is_mixin(tests: type) -> bool:
    return f"{tests.__module__}.".startswith(_MIXINS)


def _asks_for_accelerator(mark: Any) -> bool:
    return mark.name == "skipif" and "accelerator" in str(mark.kwargs.get("reason", ""))


def _make_slim(tests: Any, dense: type, *, uniform: bool) -> None:
    """Let a class of tests have the slim class, and its arguments with the slim widths."""
    slim = next(each for each in SLIM_CLASSES if dense in each.__bases__)
    arguments = tests.get_init_dict
    # An IP-Adapter brings keys and values for all heads of cross-attentions: only a plan says which of them are left.
    whole = ("attn2",) if any("IPAdapter" in each.__name__ for each in tests.__mro__) else ()
    units: dict[str, Any] = {}

    def get_init_dict(self: Any) -> dict[str, Any]:
        given = arguments(self)
        if not units:
            with torch.random.fork_rng():
                units.update(half_of(dense(**given), whole, uniform=uniform))
        return {**given, "slim_units": units}

    tests.model_class = property(lambda self: slim)
    tests.get_init_dict = get_init_dict
    for each in tests.__mro__:
        if _CHECKPOINTED in vars(each) and _is_mixin(each) and not hasattr(each, "renames"):
            each.renames = True
            setattr(each, _CHECKPOINTED, _renamed(vars(each)[_CHECKPOINTED]))


def _renamed(test: Any) -> Any:
    """Let a test that is given names of classes look for the slim class where the dense one is named."""
    slim = {dense.__name__: each.__name__ for each in SLIM_CLASSES for dense in each.__bases__}

    def renamed(self: Any, expected_set: set[str] | None = None) -> None:
        names = None if expected_set is None else {slim.get(name, name) for name in expected_set}
        test(self, expected_set=names)

    return renamed


def half_of(model: Any, whole: tuple[str, ...] = (), *, uniform: bool = False) -> dict[str, dict[str, Any]]:
    """Give the widths of a slim model: half of each site's units, and about every second attention half as wide.

    Args:
        model: the dense one.
        whole: last part of the names of attentions that stay as they are.
        uniform: narrower are the self-attentions; otherwise every second site.
    """
    units: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention) and not name.endswith(whole or ("?",)):
            width = module.to_q.out_features // module.heads
            entry = {"kind": "attention", "units": module.heads, "kept": max(module.heads // 2, 1)}
            normed = module.norm_q is not None or module.norm_k is not None
            narrow = name.endswith("attn1") if uniform else len(units) % 2 == 0
            units[name] = {**entry, "width": max(width // 2, 1)} if narrow and not normed else entry
        elif isinstance(module, FeedForward):
            neurons = module.net[2].in_features
            units[f"{name}.net"] = {"kind": "feed_forward", "units": neurons, "kept": neurons // 2}
    return units
