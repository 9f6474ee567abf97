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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import machine, write_result
from benchmarks.mixin_plugin import Mixins, Settings, Test
from passes.errors import UsageError

_FILES = (
    "unets/test_models_unet_2d_condition.py",
    "unets/test_models_unet_2d.py",
    "transformers/test_models_pixart_transformer2d.py",
    "transformers/test_models_dit_transformer2d.py",
)
# What their test modules import at the top for tests that are no mixin's.
_NOT_NEEDED = ("requests_mock",)


def run_mixins(checkout: Path, settings: Settings, *, slim: bool) -> dict[Test, str]:
    """Run the mixins in this process, which can't do anything else afterwards.

    Args:
        checkout: diffusers' repository.
        settings: how.
        slim: on the slim classes; otherwise on the dense ones.

    Returns:
        "passed", "failed" or "skipped" by dense class, mixin and test.
    """
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    for name in _NOT_NEEDED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    mixins = Mixins(settings, slim=slim)
    files = [str(file) for file in files_of(checkout)]
    pytest.main(["-q", "-p", "no:cacheprovider", "-W", "ignore", *settings.options, *files], plugins=[mixins])
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


def compare(checkout: Path, settings: Settings) -> dict[str, Any]:
    """Run the mixins on the dense and on the slim classes, each in a process of its own.

    Args:
        checkout: diffusers' repository.
        settings: how.

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
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found.append(pool.submit(run_mixins, checkout, settings, slim=slim).result())
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
    parser.add_argument("--uniform", action="store_true", help="cut blocks of one kind alike")
    parser.add_argument("--output", type=Path, help="folder for a JSON file")
    arguments, options = parser.parse_known_args()
    try:
        settings = Settings(arguments.forced, arguments.uniform, tuple(options))
        result = compare(arguments.checkout.resolve(), settings)
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
        write_result("diffusers-mixins", {**record, "settings": asdict(settings), **result}, arguments.output)
    return int(bool(result["lost"]))


if __name__ == "__main__":
    sys.exit(main())
