"""The page in a real browser: it shows everything, moves, sorts, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slimdiff_fx.saved.page.write_page import write_page
from tests.browser import browser, prefer, requested, require_browser, resize

# The headline is looked at in every run, in test_page_headline_in_browser.py.
pytestmark = pytest.mark.slow
WIDTHS = (390, 768, 1280)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require_browser()
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def pages(opened: Any, slim_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    return {name: write_page(slim, folder / f"{name}.html").as_uri() for name, slim in slim_folders.items()}


def _open(opened: Any, url: str, width: int = 1120, scheme: str = "light") -> None:
    resize(opened, width)
    prefer(opened, scheme)
    opened.get_log("performance")
    opened.get(url)
    opened.get_log("browser")
    opened.refresh()


def _run(opened: Any, code: str) -> Any:
    return opened.execute_script(code)


def _slide(opened: Any, position: int) -> None:
    _run(opened, f"const s=document.getElementById('slider');s.value={position};s.dispatchEvent(new Event('input'))")


def _figures(opened: Any) -> dict[str, str]:
    names = ("at", "read-params", "read-macs", "read-error", "read-latency")
    found = {name: _run(opened, f"return document.getElementById('{name}')?.textContent") for name in names}
    return {name: text for name, text in found.items() if text is not None}


@pytest.mark.parametrize("name", ["best", "threshold", "applied"])
def test_no_error_no_request_and_every_picture(opened: Any, pages: dict[str, str], name: str) -> None:
    _open(opened, pages[name])
    assert opened.get_log("browser") == []
    assert {url.split("#")[0] for url in requested(opened)} == {pages[name]}
    loaded = _run(opened, "return [...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(loaded) == (0 if name == "applied" else 2 * 3)
    assert all(loaded)
    drawn = _run(opened, "return document.querySelectorAll('.chart svg').length")
    assert drawn == {"best": 7, "threshold": 4, "applied": 0}[name]


@pytest.mark.parametrize("name", ["best", "threshold", "applied"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(opened: Any, pages: dict[str, str], name: str, width: int) -> None:
    _open(opened, pages[name], width)
    assert _run(opened, "return window.innerWidth") == width
    assert _run(opened, "return document.documentElement.scrollWidth") <= width
    outside = (
        "return [...document.querySelectorAll('body *')].filter(each => "
        "each.getBoundingClientRect().right > window.innerWidth + 1).map(each => each.outerHTML.slice(0, 90))"
    )
    assert _run(opened, outside) == []


@pytest.mark.parametrize("name", ["best", "threshold", "applied"])
def test_there_is_no_panel_for_what_was_not_measured(opened: Any, pages: dict[str, str], name: str) -> None:
    _open(opened, pages[name])
    data = _run(opened, "return JSON.parse(document.getElementById('data').textContent)")
    analysis = data["analysis"] or {}
    has_errors = "measured" in analysis or (analysis.get("curves") or {}).get("of") == "prediction"
    there = {"chart-error": has_errors, "chart-latency": "measured" in analysis, "pictures": name != "applied"}
    there |= {"read-error": has_errors, "read-latency": "measured" in analysis, "sweep": bool(analysis)}
    for place, expected in there.items():
        assert _run(opened, f"return document.getElementById('{place}') !== null") == expected, place
    assert _run(opened, "return document.querySelectorAll('.chart .empty, .empty').length") == 0
    assert "not measured" not in " ".join(_figures(opened).values())


def test_pictures_are_labelled_and_framed(opened: Any, pages: dict[str, str]) -> None:
    _open(opened, pages["best"])
    labels = _run(opened, "return [...document.querySelectorAll('.pair .label')].map(each => each.textContent)")
    assert labels == ["dense", "slim"] * 2
    frames = (
        "return [...document.querySelectorAll('.pair > div > img, .compared')].map(e => getComputedStyle(e).outline)"
    )
    assert len(_run(opened, frames)) == 4
    assert all("1px" in each and "solid" in each for each in _run(opened, frames))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_block_s_bars_stand_in_one_row_and_fill_it(opened: Any, pages: dict[str, str], width: int) -> None:
    _open(opened, pages["best"], width)
    rows = _run(
        opened,
        "return [...document.querySelectorAll('#map .cells')].map(row => [row.getBoundingClientRect(), "
        "[...row.children].map(each => each.getBoundingClientRect())])",
    )
    for row, cells in rows:
        assert len({cell["top"] for cell in cells}) == 1, "wrapped"
        assert cells[0]["left"] == pytest.approx(row["left"], abs=1)
        assert cells[-1]["right"] == pytest.approx(row["right"], abs=1)
    sizes = _run(opened, "return [...document.querySelectorAll('.mark')].map(e => getComputedStyle(e).fontSize)")
    assert set(sizes) == {"13px"}


@pytest.mark.parametrize("name", ["best", "threshold"])
def test_the_slider_moves_the_marker_its_figures_and_the_map(opened: Any, pages: dict[str, str], name: str) -> None:
    _open(opened, pages[name])
    place = "return Number(document.querySelector('#chart-kept .marker').getAttribute('cx'))"
    fills = "return [...document.querySelectorAll('.fill')].map(each => parseFloat(each.style.height))"
    data = _run(opened, "return JSON.parse(document.getElementById('data').textContent)")
    points = data["analysis"]["sweep"]["points"]
    saved = _figures(opened)
    assert saved["read-params"] == f"{100 * data['params_kept'] / data['params']:.1f}%"
    seen = []
    for position in (0, len(points) // 2, len(points) - 1):
        _slide(opened, position)
        figures = _figures(opened)
        assert figures["read-params"] == f"{100 * points[position]['params'] / data['params']:.1f}%"
        assert figures["read-macs"] == f"{100 * points[position]['macs'] / data['macs']:.1f}%"
        shares = [
            100 * kept / site["channels"] for kept, site in zip(points[position]["kept"], data["sites"], strict=True)
        ]
        assert _run(opened, fills) == pytest.approx(shares, abs=0.06)
        seen.append(_run(opened, place))
    assert seen[0] < seen[1] < seen[2]
    _run(opened, "document.getElementById('back').click()")
    assert _figures(opened) == saved


def test_the_threshold_is_drawn_and_moves(opened: Any, pages: dict[str, str]) -> None:
    _open(opened, pages["threshold"])
    lines = "return [...document.querySelectorAll('.tau')].map(each => Number(each.getAttribute('x1')))"
    before = _run(opened, lines)
    assert len(before) == 6
    assert _run(opened, "return document.querySelectorAll('#chart-scores .rule').length") == 1
    _slide(opened, 30)
    assert all(after > first for first, after in zip(before, _run(opened, lines), strict=True))


def test_the_slider_takes_the_keyboard(opened: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _open(opened, pages["best"])
    slider = opened.find_element(By.ID, "slider")
    slider.send_keys(Keys.HOME)
    assert _figures(opened)["at"] == "0.0%"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert _figures(opened)["at"] != "0.0%"


def test_the_table_sorts_by_click_and_by_keyboard(opened: Any, pages: dict[str, str]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _open(opened, pages["best"])
    values = (
        "return [...document.querySelectorAll('#table tbody tr')].map(row => Number(row.children[5].dataset.value))"
    )
    state = "return document.querySelectorAll('#table thead th')[5].getAttribute('aria-sort')"
    unsorted = _run(opened, values)
    button = opened.find_elements(By.CSS_SELECTOR, "#table thead button")[5]
    button.click()
    assert (_run(opened, values), _run(opened, state)) == (sorted(unsorted), "ascending")
    button.send_keys(Keys.ENTER)
    assert (_run(opened, values), _run(opened, state)) == (sorted(unsorted, reverse=True), "descending")
    first = opened.find_elements(By.CSS_SELECTOR, "#table thead button")[0]
    first.send_keys(Keys.SPACE)
    assert _run(opened, values) == unsorted, "by site: the graph's order"


def test_a_site_is_chosen_on_the_map(opened: Any, pages: dict[str, str]) -> None:
    _open(opened, pages["best"])
    _run(opened, "document.querySelectorAll('.cell')[4].click()")
    assert _run(opened, "return document.getElementById('site').value") == "4"
    label = _run(opened, "return document.querySelector('#chart-scores svg').getAttribute('aria-label')")
    assert "mid · 0.0 · attn2" in label


def test_dark_follows_the_system_and_the_button(opened: Any, pages: dict[str, str]) -> None:
    colour = "return getComputedStyle(document.documentElement).backgroundColor"
    _open(opened, pages["best"], scheme="light")
    light = _run(opened, colour)
    _open(opened, pages["best"], scheme="dark")
    dark = _run(opened, colour)
    assert light != dark
    _run(opened, "document.getElementById('theme').click()")
    assert _run(opened, colour) == light
    assert _run(opened, "return document.getElementById('theme').getAttribute('aria-pressed')") == "false"


def test_text_stands_out_from_its_background(opened: Any, pages: dict[str, str]) -> None:
    """Hold muted text and the accent to a contrast of 4.5, as WCAG asks, in both schemes."""
    ratio = """
      const style = getComputedStyle(document.documentElement);
      const probe = document.body.appendChild(document.createElement('i'));
      const light = (name) => {
        probe.style.color = `var(${name})`;
        const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number).map((part) => {
          const share = part / 255;
          return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      };
      const panel = light('--panel');
      return ['--ink', '--muted', '--accent'].map((name) => {
        const [low, high] = [panel, light(name)].sort((one, other) => one - other);
        return (high + 0.05) / (low + 0.05);
      });
    """
    for scheme in ("light", "dark"):
        _open(opened, pages["best"], scheme=scheme)
        assert min(_run(opened, ratio)) >= 4.5
