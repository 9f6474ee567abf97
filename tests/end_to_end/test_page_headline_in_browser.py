"""The page's first figures in a real browser: marked where they must be, legible, and never wider than a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slimdiff_fx.saved.headline import Headline
from slimdiff_fx.saved.page.write_page import write_page
from tests.browser import browser, prefer, require_browser, resize

SCHEMES = ("light", "dark")
# Colours as they come out, with what lies behind them put together from the nearest opaque background upwards.
CONTRAST = """
  const parse = (text) => { const p = text.match(/[\\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const behind = (each) => {
    const layers = [];
    for (let at = each; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    const over = (under, [r, g, b, a]) => [r, g, b].map((part, n) => a * part + (1 - a) * under[n]);
    return layers.reverse().reduce(over, [0, 0, 0]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => part / 255)
      .map((share) => share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(arguments[0])].map((each) => {
    const pair = [light(parse(getComputedStyle(each).color)), light(behind(each))].sort((one, other) => one - other);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  });
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require_browser()
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def pages(slim_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write pages of one folder, whose measured error is made to be far over what was asked, a little, and not."""
    place = tmp_path_factory.mktemp("pages")
    made = {}
    for name, error in {"far": 2.3e-3, "little": 1.2e-3, "under": 9e-4}.items():
        folder = place / name
        shutil.copytree(slim_folders["best"], folder)
        report = json.loads((folder / "report.json").read_text())
        report["measured"]["relative_mse"] = error
        report["call"] = {"dense_ms": 2.0, "slim_ms": 1.5, "ratio": 0.75, "device": "a CPU", "threads": 1}
        headline = Headline.of(report).on_disk(report["headline"]["bytes_slim"])
        (folder / "report.json").write_text(json.dumps({**report, "headline": headline.to_dict()}))
        made[name] = write_page(folder).as_uri()
    return made


def _open(opened: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
    resize(opened, width)
    prefer(opened, scheme)
    opened.get(url)


def _texts(opened: Any, selector: str) -> list[str]:
    found: list[str] = opened.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent.trim())", selector
    )
    return found


def test_size_and_latency_stand_first(opened: Any, pages: dict[str, str]) -> None:
    _open(opened, pages["under"])
    labels = _texts(opened, ".figures > div > p")
    assert labels[:5] == ["Denoiser on disk", "Latency", "Parameters", "Multiply-adds", "Error of the prediction"]
    assert _texts(opened, ".figures > div > strong")[1] == "−25.0%"
    assert _texts(opened, ".figures > div > small")[1] == "2.0 → 1.5 ms a call, 1 thread"


@pytest.mark.parametrize(
    ("name", "marks", "plain", "advised"),
    [
        ("far", ["2.3 times what was asked"], 1, 1),
        ("little", ["1.2 times what was asked"], 0, 0),
        ("under", [], 0, 0),
    ],
)
def test_an_error_over_what_was_asked_is_marked(
    opened: Any, pages: dict[str, str], name: str, marks: list[str], plain: int, advised: int
) -> None:
    _open(opened, pages[name])
    assert _texts(opened, ".figures small b") == marks
    assert len(_texts(opened, ".figures .over-asked")) == plain
    advice = _texts(opened, ".figures .advice")
    assert len(advice) == advised
    assert all("more samples or ask for less error" in text for text in advice)


@pytest.mark.parametrize("width", [360, 390, 414, 768])
def test_nothing_reaches_beyond_the_window(opened: Any, pages: dict[str, str], width: int) -> None:
    _open(opened, pages["far"], width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    beyond = (
        "return [...document.querySelectorAll('body *')].filter(each => "
        "each.getBoundingClientRect().right > window.innerWidth + 1).map(each => each.outerHTML.slice(0, 90))"
    )
    assert opened.execute_script(beyond) == []


@pytest.mark.parametrize("width", [360, 414])
def test_a_phone_shows_blocks_in_the_order_of_the_depth_and_no_wrapped_bar(
    opened: Any, pages: dict[str, str], width: int
) -> None:
    _open(opened, pages["far"], width)
    seen = opened.execute_script(
        "return [...document.querySelectorAll('#map .block')].map(each => "
        "[each.getBoundingClientRect().top, each.querySelector('p').textContent, "
        "new Set([...each.querySelectorAll('.cell')].map(cell => cell.getBoundingClientRect().top)).size])"
    )
    names = [name for _, name, _ in sorted(seen)]
    ranks = [("down", "mid_", "up_b").index(name[:4]) for name in names]
    assert ranks == sorted(ranks)
    numbers = [int(name.split(".")[1]) for name in names if name.startswith("up_")]
    assert numbers == sorted(numbers)
    assert {rows for *_, rows in seen} == {1}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "selector",
    [".mark", ".figures strong", ".figures small", ".figures small b", ".advice", ".pair .label", "figcaption"],
)
def test_it_is_legible(opened: Any, pages: dict[str, str], scheme: str, selector: str) -> None:
    _open(opened, pages["far"], scheme=scheme)
    ratios = opened.execute_script(CONTRAST, selector)
    assert ratios
    assert min(ratios) >= 4.5


def test_page_and_report_give_the_same_ratios(
    opened: Any, pages: dict[str, str], slim_folders: dict[str, Path]
) -> None:
    report = json.loads((slim_folders["best"] / "report.json").read_text())
    _open(opened, pages["far"])
    shown = ["equal" if ratio is None else f"{ratio:.1f} dB" for ratio in report["pictures"]["psnr_db"]]
    assert _texts(opened, ".pair figcaption b") == shown
    assert _texts(opened, ".pair figcaption span") == report["pictures"]["conditions"]
