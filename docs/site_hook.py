"""For the site that mkdocs builds: links that leave docs/ become plain words, for the files are not on the site."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Be called by mkdocs with each page's text."""
    folder = PurePosixPath(page.file.src_uri).parent
    parts = _CODE.split(markdown)
    return "".join(part if at % 2 else inside_only(part, folder) for at, part in enumerate(parts))


def inside_only(text: str, folder: PurePosixPath) -> str:
    """Keep links between pages, and of others the words alone; `folder` is the page's own, below docs/."""

    def keep(link: re.Match[str]) -> str:
        depth = len(folder.parts)
        for part in PurePosixPath(link[2]).parts:
            depth += -1 if part == ".." else 1
            if depth < 0:
                return link[1]
        return link[0]

    return _LINK.sub(keep, text)
