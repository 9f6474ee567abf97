"""The tool that puts small bugs in: which, where, against which tests, and what it writes down."""

from __future__ import annotations

import ast
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.mutants.baseline import quick_first
from benchmarks.mutants.hunt import Hunt, Verdict, all_mutants, sample, survivors_of
from benchmarks.mutants.mutations import Mutant, describe, list_mutants, mutate
from benchmarks.mutants.sources import OTHER_TESTS, ROOT, mirrors_of, sources
from benchmarks.mutants.survivors import BEGIN, END, without_reason, write_survivors
from benchmarks.mutants.workplace import Limits, Workplace

SOURCE = '''"""What it is for."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    LIMIT = 3

__all__ = ["widest"]
Sizes = dict[str, int]


def widest(sizes: Sizes, most: int | None = None) -> int:
    """Give the widest, at most 7."""
    total = 0
    for name, size in zip(sizes, sizes.values(), strict=True):
        if name == "skipped":
            continue
        if size < 0:
            raise ValueError(f"{name} is {size + 1 - 1}")
        total = max(total, cast("int", size))
    return total if most is None else min(total, most)
'''


def test_every_mutated_file_has_tests_that_are_there():
    assert [name for name in sources() if not (ROOT / name).is_file()] == []
    assert [name for name in sources() if not mirrors_of(name)] == []
    assert [test for name in sources() for test in mirrors_of(name) if not (ROOT / test).is_file()] == []
    assert set(OTHER_TESTS) <= set(sources())


def test_the_mirrored_file_comes_first():
    assert mirrors_of("passes/rewrite/rewrite.py")[0] == "tests/passes/rewrite/test_rewrite.py"
    assert mirrors_of("slimdiff_fx/latency/cache.py")[0].startswith("tests/slimdiff_fx/latency/")


def _changes(root: Path) -> list[tuple[str, str]]:
    found = []
    for mutant in list_mutants(root, "passes/widest.py"):
        source, text = mutate(root, mutant)
        assert source == SOURCE
        ast.parse(text)
        line, before, after = describe(SOURCE, text)
        assert mutant.lines[0] <= line <= mutant.lines[1]
        found.append((before, after))
    return found


@pytest.fixture
def project(tmp_path):
    """Give a project of one file, with one test that runs all of it but the error, and looks at little."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "widest.py").write_text(SOURCE)
    (tmp_path / "passes" / "__init__.py").touch()
    tests = tmp_path / "tests" / "passes"
    tests.mkdir(parents=True)
    (tests / "test_widest.py").write_text(
        "from passes.widest import widest\n\n\n"
        "def test_the_widest():\n    assert widest({'a': 2, 'skipped': 9, 'b': 5, 'c': 1}) == 5\n\n\n"
        "def test_at_most():\n    widest({'a': 2}, 1)\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ['--import-mode=importlib']\n")
    return tmp_path


def test_what_is_mutated(project):
    changes = _changes(project)
    assert ('if name == "skipped":', 'if name != "skipped":') in changes
    assert ('if name == "skipped":', 'if name == "XXskippedXX":') in changes
    assert ("continue", "break") in changes
    assert ("if size < 0:", "if size <= 0:") in changes
    assert ("total = 0", "total = 1") in changes
    assert (
        "return total if most is None else min(total, most)",
        "return total if most is not None else min(total, most)",
    ) in changes


def test_what_nothing_could_notice_is_not_mutated(project):
    befores = " ".join(before for before, _ in _changes(project))
    for text in ('"""', "import", "LIMIT", "__all__", "Sizes = ", "def ", "raise"):
        assert text not in befores
    assert not any("strict=False" in after or 'cast("XXintXX"' in after for _, after in _changes(project))


def test_the_sample_spreads_over_the_list_and_is_the_seeds():
    mutants = [Mutant("a.py", index, (1, 1), "number") for index in range(1000)]
    drawn = sample(mutants, 20, 7)
    assert [mutant.index // 50 for mutant in drawn] == list(range(20))
    assert sample(mutants, 20, 7) == drawn != sample(mutants, 20, 8)
    assert sample(mutants[:3], 20, 7) == mutants[:3]


@pytest.mark.parametrize("jobs", [1, 2])
def test_bugs_are_noticed_or_not(project, jobs):
    shutil.copytree(ROOT / "benchmarks" / "mutants", project / "benchmarks" / "mutants")
    shutil.copy2(ROOT / "benchmarks" / "__init__.py", project / "benchmarks")
    mutants = [
        mutant
        for mutant in all_mutants(project, ["passes/widest.py"])
        if mutant.operator == "swap_op" and mutant.lines[0] in (16, 18)
    ]
    hunt = Hunt(project, project / "cache")
    verdicts = list(hunt.verdicts(mutants, jobs))
    assert (project / "passes" / "widest.py").read_text() == SOURCE
    assert hunt.failing == []
    by_change = {(verdict.before, verdict.after): verdict for verdict in verdicts}
    killed = by_change['if name == "skipped":', 'if name != "skipped":']
    assert (killed.status, killed.killer) == ("killed", "tests/passes/test_widest.py::test_the_widest")
    # The second test looks at nothing, and the first has no size of nought.
    survived = by_change["if size < 0:", "if size <= 0:"]
    assert (survived.status, survived.line) == ("survived", 18)
    assert not survived.is_killed
    again = survivors_of({"verdicts": [verdict.as_json() for verdict in verdicts]}, project, mutants)
    assert [mutant.index for mutant in again] == [verdict.index for verdict in verdicts if not verdict.is_killed]


VERDICT = Verdict(
    source="passes/plan/slim_plan.py",
    index=3,
    line=12,
    operator="swap_op",
    before="if first | second:",
    after="if first & second:",
    status="survived",
    killer=None,
    seconds=1.0,
)


@pytest.fixture
def page(tmp_path):
    """Give a page with an empty table."""
    path = tmp_path / "page.md"
    path.write_text(f"# Above\n\n{BEGIN}\n{END}\n\nbelow\n")
    return path


def test_survivors_keep_the_reasons_that_people_wrote(page):
    other = replace(VERDICT, line=2, before="size = 1", after="size = 2")
    write_survivors(page, [VERDICT, other])
    text = page.read_text()
    assert text.startswith("# Above\n\n")
    assert text.endswith("\n\nbelow\n")
    row = next(row for row in text.splitlines() if " 12 |" in row)
    assert row == r"| `passes/plan/slim_plan.py` | 12 | `if first \| second:` → `if first & second:` |  |"
    assert without_reason(page) == ["passes/plan/slim_plan.py:2", "passes/plan/slim_plan.py:12"]
    page.write_text(text.replace(row, row.removesuffix(" |") + "Both are the same. |"))
    # Another line by now, and another seed in between: the reason stays.
    write_survivors(page, [replace(VERDICT, line=15)])
    write_survivors(page, [])
    kept = next(row for row in page.read_text().splitlines() if " 15 |" in row)
    assert kept.endswith("| Both are the same. |")
    assert without_reason(page) == ["passes/plan/slim_plan.py:2"]


def test_what_is_noticed_by_now_leaves_the_table(page):
    write_survivors(page, [VERDICT, replace(VERDICT, source="passes/other.py", status="unreached")])
    write_survivors(page, [replace(VERDICT, status="killed")])
    assert without_reason(page) == ["passes/other.py:12"]


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("# Nothing\n")
    with pytest.raises(ValueError, match="no lines"):
        write_survivors(tmp_path / "page.md", [VERDICT])


def test_the_quickest_known_test_file_comes_first(tmp_path):
    names = ("tests/a.py", "tests/b.py", "tests/c.py", "tests/d.py")
    assert quick_first(names, tmp_path) == list(names)
    (tmp_path / "tests.d.py.seconds").write_text("3.5")
    (tmp_path / "tests.b.py.seconds").write_text("20")
    assert quick_first(names, tmp_path) == ["tests/d.py", "tests/b.py", "tests/a.py", "tests/c.py"]


@pytest.mark.parametrize(
    ("body", "limits"), [("while True: pass", Limits(1, 100)), ("import time; time.sleep(100)", Limits(100, 2))]
)
def test_what_never_ends_is_ended(project, body, limits):
    shutil.copytree(ROOT / "benchmarks" / "mutants", project / "benchmarks" / "mutants")
    shutil.copy2(ROOT / "benchmarks" / "__init__.py", project / "benchmarks")
    (project / "tests" / "passes" / "test_widest.py").write_text(f"def test_it():\n    {body}\n")
    with Workplace(project) as workplace:
        answer = workplace.run(["tests/passes/test_widest.py"], limits)
        assert (answer["code"], answer["signal"]) == (None, signal.SIGXCPU)
        # And the next one runs.
        (workplace.root / "tests" / "passes" / "test_widest.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
        answer = workplace.run(["tests/passes/test_widest.py"], Limits(60, 100))
        assert (answer["code"], answer["failed"]) == (0, [])


def test_the_same_change_in_two_lines_is_one_row_of_what_survives(page):
    killed = replace(VERDICT, index=4, line=20, status="killed")
    write_survivors(page, [VERDICT, killed, replace(VERDICT, index=5, line=30)])
    assert "| `passes/plan/slim_plan.py` | 12, 30 |" in page.read_text()
    assert without_reason(page) == ["passes/plan/slim_plan.py:12, 30"]
    write_survivors(page, [killed])
    assert without_reason(page) == []
