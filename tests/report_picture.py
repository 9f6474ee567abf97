"""Draw docs/report.md's picture of the page.

`python -m tests.report_picture slim-emoji -o docs/pictures/report.png`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from slimdiff_fx.saved.page.write_page import write_page
from tests.browser import browser, prefer, resize, screenshot

WIDTH, HEIGHT = 1120, 1660


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, browser(Path(place) / "profile") as opened:
        page = write_page(given.folder, Path(place) / "page.html")
        halves = []
        for scheme in ("light", "dark"):
            resize(opened, WIDTH)
            prefer(opened, scheme)
            opened.get(page.as_uri())
            screenshot(opened, Path(place) / f"{scheme}.png", HEIGHT)
            with Image.open(Path(place) / f"{scheme}.png") as shot:
                halves.append(shot.convert("RGB"))
    sheet = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for number, half in enumerate(halves):
        sheet.paste(half, (number * WIDTH, 0))
    sheet = sheet.resize((3 * WIDTH // 2, 3 * HEIGHT // 4), Image.Resampling.LANCZOS)
    sheet.quantize(256, dither=Image.Dither.NONE).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
