"""Put in one bug after another, and run the tests that could notice it, the quickest first."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from benchmarks.mutants.baseline import Baseline, measure_baseline, quick_first
from benchmarks.mutants.mutations import Mutant, describe, list_mutants, mutate
from benchmarks.mutants.sources import mirrors_of, sources
from benchmarks.mutants.workplace import Limits, Workplace


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    Attributes:
        source: the file, from the root of the project.
        index: which of the file's mutants.
        line: where the change is, from 1.
        operator: what mutmut calls the change.
        before: what stands in the file.
        after: what stood there for the test.
        status: "killed", "timeout" and "crashed" (both count as killed), "survived", or "unreached": no test of its
            files runs the line.
        killer: the test that failed, or the test file that came to no end.
        seconds: by the clock.
    """

    source: str
    index: int
    line: int
    operator: str
    before: str
    after: str
    status: str
    killer: str | None
    seconds: float

    @property
    def is_killed(self) -> bool:
        """Whether the tests noticed."""
        return self.status not in {"survived", "unreached"}

    def as_json(self) -> dict[str, Any]:
        """Give the verdict as JSON values."""
        return asdict(self)


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Draw mutants, spread over the files by their number of mutants: one of each stretch of equal length."""
    draw = random.Random(seed)
    count = min(count, len(mutants))
    edges = [len(mutants) * index // count for index in range(count + 1)] if count else []
    return [mutants[draw.randrange(start, stop)] for start, stop in pairwise(edges)]


def all_mutants(root: Path, chosen: Sequence[str] = ()) -> list[Mutant]:
    """List the mutants of all files that are mutated, or of those chosen."""
    return [
        mutant for source in sources(root) if not chosen or source in chosen for mutant in list_mutants(root, source)
    ]


def survivors_of(record: Mapping[str, Any], root: Path, mutants: Sequence[Mutant]) -> list[Mutant]:
    """Find the mutants that survived a run, as `as_json` gave them, among those that there are now.

    Survivors whose file has changed in that place are left out.
    """
    by_index = {(mutant.source, mutant.index): mutant for mutant in mutants}
    found = []
    for verdict in (Verdict(**values) for values in record["verdicts"]):
        mutant = by_index.get((verdict.source, verdict.index))
        if mutant is not None and not verdict.is_killed:
            _, before, after = describe(*mutate(root, mutant))
            if (before, after) == (verdict.before, verdict.after):
                found.append(mutant)
    return found


class Hunt:
    """Runs of mutants; what the tests do without a bug is measured once for each test file.

    Args:
        root: the project whose mutants were listed.
        cache: a folder in which that is kept from run to run.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._root, self._cache = root, cache
        self._baselines: dict[str, Baseline] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    @property
    def failing(self) -> list[str]:
        """Tests that fail without a bug: they say nothing and are left out."""
        return sorted(test for baseline in self._baselines.values() for test in baseline.failed)

    def verdicts(self, mutants: Sequence[Mutant], jobs: int = 1) -> Iterator[Verdict]:
        """Try mutants, each job in a workplace of its own; verdicts come as they are found.

        Raises:
            RuntimeError: a test file doesn't run to its end without a bug.
        """
        # Those of one file together: the other jobs needn't wait for what its tests do without a bug.
        groups = deque(list(group) for _, group in groupby(mutants, key=lambda mutant: mutant.source))
        found: SimpleQueue[Verdict | None] = SimpleQueue()
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(self._work, groups, found) for _ in range(jobs)]
            try:
                for _ in range(jobs):
                    while (verdict := found.get()) is not None:
                        yield verdict
            finally:
                groups.clear()
            for each in running:
                each.result()

    def _work(self, groups: deque[list[Mutant]], found: SimpleQueue[Verdict | None]) -> None:
        try:
            with Workplace(self._root) as workplace:
                while groups:
                    for mutant in groups.popleft():
                        found.put(self._try(workplace, mutant))
        except BaseException:
            groups.clear()
            raise
        finally:
            found.put(None)

    def _try(self, workplace: Workplace, mutant: Mutant) -> Verdict:
        before, after = mutate(self._root, mutant)
        line, old, new = describe(before, after)
        began = time.monotonic()
        status, killer = "unreached", None
        # File by file: most bugs are noticed by the first, and what the others do needn't be known then.
        for name in quick_first(mirrors_of(mutant.source, workplace.root), self._cache):
            baseline = self._baseline(workplace, name)
            tests = _tests(mutant, baseline)
            if not tests:
                continue
            # What tests share is counted for the first of them alone, so that no part of the whole could be a limit.
            whole = sum(baseline.seconds.values())
            workplace.put(mutant.source, after)
            try:
                answer = workplace.run([name], Limits(30 + 2 * whole, 300 + 20 * whole), tests=tests)
            finally:
                workplace.put(mutant.source, before)
            status = _status(answer)
            if status != "survived":
                killer = answer["failed"][0] if answer["failed"] else name
                break
        seconds = round(time.monotonic() - began, 1)
        return Verdict(mutant.source, mutant.index, line, mutant.operator, old, new, status, killer, seconds)

    def _baseline(self, workplace: Workplace, name: str) -> Baseline:
        with self._locks[name]:
            if name not in self._baselines:
                self._baselines[name] = measure_baseline(workplace, name, self._cache)
            return self._baselines[name]


def _tests(mutant: Mutant, baseline: Baseline) -> list[str]:
    """Give the tests of a file that may notice: those that run the lines themselves first, quick ones first.

    What a fixture runs, or the import, may show in any test of the file.
    """
    lines = baseline.lines.get(mutant.source, {})
    ran = {name for line in range(mutant.lines[0], mutant.lines[1] + 1) for name in lines.get(str(line), [])}
    tests = sorted(baseline.seconds.keys() - baseline.failed, key=baseline.seconds.__getitem__)
    own = [name for name in tests if name in ran]
    return own + [name for name in tests if name not in ran] if ran & {"", "setup"} else own


def _status(answer: dict[str, Any]) -> str:
    if answer["code"] == 0:
        return "survived"
    if answer["code"] is None:
        return "timeout" if answer["signal"] == signal.SIGXCPU else "crashed"
    return "killed"
