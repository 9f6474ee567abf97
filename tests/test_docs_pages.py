"""The documents as a whole: each page is found, each link leads somewhere, each block of Python is run by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slimdiff_fx.version import __version__

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
# Which test runs a page's blocks of Python.
RUN_BY = {
    "README.md": "test_readme.py",
    "docs/python.md": "test_readme.py",
    "docs/compilers.md": "test_docs.py",
    "docs/diffusers.md": "test_docs_diffusers.py",
    "docs/quantization.md": "test_docs_quantization.py",
    "docs/deployment.md": "test_docs_quantization.py",
    "docs/first_ten_minutes.md": "benchmarks/test_newcomer.py",
    "docs/how_to/add_a_criterion.md": "test_docs_how_to.py",
    "docs/how_to/add_a_kind_of_site.md": "test_docs_how_to.py",
    "docs/how_to/add_an_export_format.md": "test_docs_how_to.py",
    "docs/how_to/add_a_runtime.md": "test_docs_how_to.py",
}


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _prose(page: Path) -> str:
    """Give a page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Name the headings as GitHub does: small, words and hyphens only, spaces as hyphens."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        again = 0
        while (anchor := slug if again == 0 else f"{slug}-{again}") in found:
            again += 1
        found.add(anchor)
    return found


def _links(page: Path) -> list[tuple[str, str]]:
    """Give each relative link as its file and anchor, either of them empty."""
    prose = re.sub(r"`[^`\n]+`", "``", _prose(page))
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [(target.partition("#")[0], target.partition("#")[2]) for target in found if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    dead = []
    for target, anchor in _links(page):
        place = (page.parent / target).resolve() if target else page
        if not place.exists() or (anchor and anchor not in _anchors(place)):
            dead.append(f"{target}#{anchor}")
    assert dead == []


def test_anchors_are_those_that_github_makes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What `slim` *saves*, and why\n\n## A.b\n\n```bash\n# no heading\n```\n\n## A.b\n")
    assert _anchors(page) == {"what-slim-saves-and-why", "ab", "ab-1"}


INDEXES = sorted(DOCS.rglob("README.md"))


@pytest.mark.parametrize("index", INDEXES, ids=_name)
def test_the_index_names_every_page(index: Path) -> None:
    named = {(index.parent / target).resolve() for target, _ in _links(index) if target}
    others = {each.parent for each in INDEXES} - {index.parent}
    pages = {page for page in index.parent.rglob("*.md") if page.parent not in others}
    further = {each for each in INDEXES if each.parent.parent == index.parent}
    assert (pages | further) - {index} - named == set()


def test_the_citation_has_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE) == [__version__]


def test_the_readme_is_read_in_minutes() -> None:
    assert (ROOT / "README.md").stat().st_size < 12_000


def test_every_block_of_python_is_run() -> None:
    with_python = {_name(page) for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")}
    assert with_python == RUN_BY.keys()
    for page, test in RUN_BY.items():
        assert (ROOT / "tests" / test).is_file(), f"nothing runs {page}"


DECISIONS = sorted((DOCS / "adr").glob("0*.md"))


def test_decisions_have_a_status_and_a_date() -> None:
    for page in DECISIONS:
        title, blank, status, *_ = page.read_text(encoding="utf-8").splitlines()
        assert re.fullmatch(r"# \d+\. .+", title), page.name
        assert int(title[2:].split(".")[0]) == int(page.name[:4])
        assert blank == ""
        assert re.fullmatch(r"Status: (accepted|replaced by \[ADR \d+\]\(\d{4}-.+\.md\)), \d{4}-\d\d-\d\d", status), (
            page.name
        )


def test_the_index_has_the_titles_of_decisions() -> None:
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    for page in DECISIONS:
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({page.name})\n" in index
