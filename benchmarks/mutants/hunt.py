"""Put in one bug after another, and run the tests that could notice it, the quickest first."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.mutants.baseline import Baseline, measure_baseline
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
        killer: the test that failed.
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
            _, before, after = describe((root / mutant.source).read_text(encoding="utf-8"), mutate(root, mutant))
            if (before, after) == (verdict.before, verdict.after):
                found.append(mutant)
    return found


class Hunt:
    """Runs of mutants of a workplace's files; what the tests do without a bug is measured once for each test file.

    Args:
        workplace: where.
        cache: a folder in which that is kept from run to run.
    """

    def __init__(self, workplace: Workplace, cache: Path) -> None:
        self._root, self._workplace, self._cache = workplace.root, workplace, cache
        self._baselines: dict[str, Baseline] = {}

    @property
    def failing(self) -> list[str]:
        """Tests that fail without a bug: they say nothing and are left out."""
        return sorted(test for baseline in self._baselines.values() for test in baseline.failed)

    def verdicts(self, mutants: Sequence[Mutant]) -> Iterator[Verdict]:
        """Try mutants one by one."""
        for mutant in mutants:
            yield self._try(mutant)

    def _try(self, mutant: Mutant) -> Verdict:
        baselines = [self._baseline(name) for name in mirrors_of(mutant.source, self._root)]
        before = (self._root / mutant.source).read_text(encoding="utf-8")
        after = mutate(self._root, mutant)
        began = time.monotonic()
        tests = _tests(mutant, baselines)
        if tests:
            # Coverage made the baseline slower than the same tests are now.
            limits = Limits(20 + 3 * sum(tests.values()), 120 + 20 * sum(tests.values()))
            files = list(dict.fromkeys(test.split("::")[0] for test in tests))
            self._workplace.put(mutant.source, after)
            try:
                answer = self._workplace.run(files, limits, tests=list(tests))
            finally:
                self._workplace.put(mutant.source, before)
            status = _status(answer)
            killer = answer["failed"][0] if answer["failed"] else None
        else:
            status, killer = "unreached", None
        line, old, new = describe(before, after)
        seconds = round(time.monotonic() - began, 1)
        return Verdict(mutant.source, mutant.index, line, mutant.operator, old, new, status, killer, seconds)

    def _baseline(self, name: str) -> Baseline:
        if name not in self._baselines:
            self._baselines[name] = measure_baseline(self._workplace, name, self._cache)
        return self._baselines[name]


def _tests(mutant: Mutant, baselines: Sequence[Baseline]) -> dict[str, float]:
    """Give the tests that may notice, and their seconds: those that run the lines themselves first, quick ones first.

    What a fixture runs, or the import, may show in any test of the file.
    """
    own: dict[str, float] = {}
    others: dict[str, float] = {}
    for baseline in baselines:
        lines = baseline.lines.get(mutant.source, {})
        ran = {name for line in range(mutant.lines[0], mutant.lines[1] + 1) for name in lines.get(str(line), [])}
        seconds = {name: took for name, took in baseline.seconds.items() if name not in baseline.failed}
        own |= {name: took for name, took in seconds.items() if name in ran}
        if ran & {"", "setup"}:
            others |= {name: took for name, took in seconds.items() if name not in ran}
    return dict([*sorted(own.items(), key=lambda item: item[1]), *sorted(others.items(), key=lambda item: item[1])])


def _status(answer: dict[str, Any]) -> str:
    if answer["code"] == 0:
        return "survived"
    if answer["code"] is None:
        # SIGXCPU, and SIGKILL where it was ignored.
        return "timeout" if answer["signal"] in {24, 9} else "crashed"
    return "killed"
