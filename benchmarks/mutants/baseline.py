"""What a test file does without a bug; kept from run to run for as long as nothing that it may run has changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mutants.sources import mirrors_of, sources
from benchmarks.mutants.workplace import Limits, Workplace

_LIMITS = Limits(cpu_seconds=1200, wall_seconds=7200)


@dataclass(frozen=True)
class Baseline:
    """One test file without a bug.

    Attributes:
        seconds: by test, of processor time.
        lines: by source and line, the tests that ran it; "" stands for imports, "setup" for fixtures.
        failed: tests that fail anyway.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]
    failed: list[str]


def measure_baseline(workplace: Workplace, name: str, cache: Path) -> Baseline:
    """Run a test file without a bug, or give what is known of it.

    Args:
        workplace: has no bug in it.
        name: the test file, from the root of the project.
        cache: the folder of what is known.

    Raises:
        RuntimeError: it doesn't run to its end.
    """
    known = cache / f"{_digest(workplace.root, name)}.json"
    if known.is_file():
        return Baseline(**json.loads(known.read_text(encoding="utf-8")))
    covered = [source for source in sources(workplace.root) if name in mirrors_of(source, workplace.root)]
    answer = workplace.run([name], _LIMITS, cover=covered, stop=False)
    # 5: all of its tests are slow ones.
    if answer["code"] not in (0, 1, 5):
        raise RuntimeError(f"{name} doesn't run without a bug: {answer}\n{workplace.log[-4000:]}")
    print(f"{name}: {len(answer['seconds'])} tests, {answer['cpu']:.0f} s of processor time", flush=True)
    baseline = Baseline(answer["seconds"], answer["lines"], answer["failed"])
    known.parent.mkdir(exist_ok=True)
    known.write_text(json.dumps(asdict(baseline)), encoding="utf-8")
    _seconds_file(cache, name).write_text(str(answer["cpu"]), encoding="utf-8")
    return baseline


def quick_first(names: Iterable[str], cache: Path) -> list[str]:
    """Order test files by what they took when they were run last; those that never were come last, as they stand."""
    took = {name: float(file.read_text()) for name in names if (file := _seconds_file(cache, name)).is_file()}
    return sorted(names, key=lambda name: took.get(name, math.inf))


def _seconds_file(cache: Path, name: str) -> Path:
    return cache / f"{name.replace('/', '.')}.seconds"


def _digest(root: Path, name: str) -> str:
    """Give a digest of the test file, of all that isn't a test, and of which sources it is there for."""
    digest = hashlib.sha256()
    for path in _python_files(root, ("passes", "slimdiff_fx", "tests")):
        if not path.name.startswith("test_") or path == root / name:
            digest.update(f"\0{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    digest.update("\0".join(source for source in sources(root) if name in mirrors_of(source, root)).encode())
    return digest.hexdigest()[:32]


def _python_files(root: Path, folders: Iterable[str]) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
