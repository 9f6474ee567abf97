"""The pages on how to add something are run: their blocks, and the tests that they end in."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "how_to").glob("*.md"))
CODE = {
    page.stem: "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    )
    for page in PAGES
}
TESTS = [(page, name) for page, code in CODE.items() for name in re.findall(r"^def (test_\w+)", code, re.MULTILINE)]


def test_each_page_ends_in_a_test() -> None:
    assert {page for page, _ in TESTS} == CODE.keys()
    for page in PAGES:
        assert "def test_" in page.read_text(encoding="utf-8").split("\n## The test\n")[1]


@pytest.mark.parametrize(("page", "name"), TESTS)
def test_the_page_s_test_passes(page: str, name: str, request: pytest.FixtureRequest) -> None:
    names: dict[str, Any] = {"__name__": page}
    exec(compile(CODE[page], f"docs/how_to/{page}.md", "exec"), names)
    fixtures = {each: request.getfixturevalue(each) for each in inspect.signature(names[name]).parameters}
    names[name](**fixtures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_the_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`((?:passes|slimdiff_fx|benchmarks|tests|docs)/[\w/]+\.(?:py|md))`", page.read_text("utf-8"))
    assert named
    assert [name for name in named if not re.search("FORMAT|KIND", name) and not (ROOT / name).is_file()] == []
