"""Do diffusers' own model tests pass on the slim classes as on the dense ones?

`python -m benchmarks.diffusers_mixins CHECKOUT`, where CHECKOUT is a folder with diffusers' repository (its `tests` are
not part of the package). The mixins of `tests/models/testing_utils` run twice, on diffusers' own tiny configurations:
on the dense class, and on the slim one with half of its heads and neurons and, every second site, narrower heads.
The installed diffusers is what is tested, whatever version the checkout is of.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention

from benchmarks.measure import machine, write_result
from passes.errors import UsageError
from slimdiff_fx.slim_models import SLIM_CLASSES

Test = tuple[str, str, str]  # dense class, mixin, test
_FILES = (
    "unets/test_models_unet_2d_condition.py",
    "unets/test_models_unet_2d.py",
    "transformers/test_models_pixart_transformer2d.py",
    "transformers/test_models_dit_transformer2d.py",
)
_MIXINS = "tests.models.testing_utils."
# Loads published checkpoints of gigabytes, which no slim class is for.
_LEFT_OUT = ("SingleFileTesterMixin",)
# Is given the names of classes that it expects.
_CHECKPOINTED = "test_gradient_checkpointing_is_applied"
# What their test modules import at the top for tests that are no mixin's.
_NOT_NEEDED = ("requests_mock",)


class Mixins:
    """A pytest plugin that keeps the tests of mixins, and puts slim classes in the place of dense ones."""

    def __init__(self, *, slim: bool, forced: bool) -> None:
        self.slim = slim
        self.forced = forced
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
                    _make_slim(item.cls, dense)
            if self.forced:
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


def _make_slim(tests: Any, dense: type) -> None:
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
                units.update(half_of(dense(**given), whole))
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


def half_of(model: Any, whole: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Give the widths of a slim model: half of the units of each site, and at every second attention half as wide.

    Args:
        model: the dense one.
        whole: last part of the names of attentions that stay as they are.
    """
    units: dict[str, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention) and not name.endswith(whole or ("?",)):
            width = module.to_q.out_features // module.heads
            entry = {"kind": "attention", "units": module.heads, "kept": max(module.heads // 2, 1)}
            normed = module.norm_q is not None or module.norm_k is not None
            units[name] = entry if len(units) % 2 or normed else {**entry, "width": max(width // 2, 1)}
        elif isinstance(module, FeedForward):
            neurons = module.net[2].in_features
            units[f"{name}.net"] = {"kind": "feed_forward", "units": neurons, "kept": neurons // 2}
    return units


def run_mixins(checkout: Path, *, slim: bool, forced: bool, options: Sequence[str] = ()) -> dict[Test, str]:
    """Run the mixins in this process, which can't do anything else afterwards.

    Args:
        checkout: diffusers' repository.
        slim: on the slim classes; otherwise on the dense ones.
        forced: also those that ask for an accelerator, on what there is.
        options: for pytest.

    Returns:
        "passed", "failed" or "skipped" by dense class, mixin and test.
    """
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    for name in _NOT_NEEDED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    mixins = Mixins(slim=slim, forced=forced)
    files = [str(file) for file in files_of(checkout)]
    pytest.main(["-q", "-p", "no:cacheprovider", "-W", "ignore", *options, *files], plugins=[mixins])
    return mixins.outcomes


def files_of(checkout: Path) -> list[Path]:
    """Find the files whose tests are run.

    Raises:
        UsageError: none is there.
    """
    folder = checkout / "tests" / "models"
    files = [folder / file for file in _FILES if (folder / file).is_file()]
    if not files:
        raise UsageError(f"{folder} has none of diffusers' tests; give the folder of a clone of its repository")
    return files


def compare(checkout: Path, *, forced: bool = False, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run the mixins on the dense and on the slim classes, each in a process of its own.

    Args:
        checkout: diffusers' repository.
        forced: also tests that ask for an accelerator, on what there is.
        options: for pytest.

    Returns:
        "counts", a list of class, mixin, how many tests there are, were skipped on the dense class and passed on
        either; and "lost", the tests that pass on the dense class alone.

    Raises:
        UsageError: the folder has no tests of diffusers.
    """
    files_of(checkout)
    context = multiprocessing.get_context("spawn")
    found: list[dict[Test, str]] = []
    for slim in (False, True):
        queue = context.Queue()
        process = context.Process(target=_run_into, args=(queue, checkout, slim, forced, options))
        process.start()
        found.append(queue.get())
        process.join()
    dense, slimmed = found
    counts = []
    for model, mixin in dict.fromkeys(test[:2] for test in dense):
        tests = [test for test in dense if test[:2] == (model, mixin)]
        counts.append(
            {
                "class": model,
                "mixin": mixin,
                "tests": len(tests),
                "skipped": sum(dense[test] == "skipped" for test in tests),
                "dense": sum(dense[test] == "passed" for test in tests),
                "slim": sum(slimmed.get(test) == "passed" for test in tests),
            }
        )
    lost = [" ".join(test) for test in dense if dense[test] == "passed" and slimmed.get(test) != "passed"]
    return {"counts": counts, "lost": lost}


def _run_into(queue: Any, checkout: Path, slim: bool, forced: bool, options: Sequence[str]) -> None:
    queue.put(run_mixins(checkout, slim=slim, forced=forced, options=options))


def main() -> int:
    """Print the counts by class and mixin, and what passes on the dense class alone."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other options are pytest's, as -k Lora.",
    )
    parser.add_argument("checkout", type=Path, help="folder with diffusers' repository")
    parser.add_argument(
        "--forced", action="store_true", help="also tests that ask for an accelerator, on what there is"
    )
    parser.add_argument("--output", type=Path, help="folder for a JSON file")
    arguments, options = parser.parse_known_args()
    try:
        result = compare(arguments.checkout.resolve(), forced=arguments.forced, options=options)
    except UsageError as error:
        parser.error(str(error))
    print(
        "| class | mixin | tests | skipped | pass on the dense class | on the slim class |\n|---|---|---|---|---|---|"
    )
    for each in result["counts"]:
        print("| {class} | {mixin} | {tests} | {skipped} | {dense} | {slim} |".format(**each))
    for test in result["lost"]:
        print(f"passes on the dense class alone: {test}")
    if arguments.output is not None:
        record = machine()
        record["versions"] |= {name: importlib.metadata.version(name) for name in ("diffusers", "peft")}
        write_result("diffusers-mixins", {**record, **result}, arguments.output)
    return int(bool(result["lost"]))


if __name__ == "__main__":
    sys.exit(main())
