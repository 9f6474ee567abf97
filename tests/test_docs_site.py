"""The site of docs/: every page is in its list, every public name in its API, and it builds without a warning."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

import slimdiff_fx

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_site_lists_every_page() -> None:
    listed = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", CONFIG, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_api_has_every_public_name_and_its_index_names_them() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)
    names = [place.rpartition(".")[2] for place in shown]
    assert sorted(names) == sorted(set(slimdiff_fx.__all__) - {"ModelMixin"})  # which is diffusers' own
    for place, name in zip(shown, names, strict=True):
        module = importlib.import_module(place.rpartition(".")[0])
        assert getattr(module, name) is getattr(slimdiff_fx, name), place
    assert set(names) <= set(re.findall(r"`(\w+)`", (DOCS / "api" / "README.md").read_text(encoding="utf-8")))


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hook", DOCS / "site_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "before", "after"),
    [
        (".", "[in](a.md#b), [out](../README.md), [web](https://a.b/c)", "[in](a.md#b), out, [web](https://a.b/c)"),
        ("adr", "[up](../cost.md#x), [out](../../README.md#y)", "[up](../cost.md#x), out"),
        (".", "![picture](../a.png) [back](adr/../a.md)", "![picture](../a.png) [back](adr/../a.md)"),
    ],
)
def test_only_links_that_leave_the_pages_become_words(hook: ModuleType, folder: str, before: str, after: str) -> None:
    assert hook.inside_only(before, PurePosixPath(folder)) == after


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("needs the extra docs: `make docs`")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    assert "doc-function" in (tmp_path / "site" / "api" / "slim.html").read_text(encoding="utf-8")
