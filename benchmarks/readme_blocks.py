"""What a benchmark writes into the README or a page of docs/, between two comments that are its own."""

from __future__ import annotations

from pathlib import Path


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def read_block(name: str, page: Path) -> str | None:
    """Give what stands there; None without the comments."""
    begin, end = _markers(name)
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        return None
    return text.split(begin, 1)[1].split(end, 1)[0].strip("\n")


def write_block(name: str, content: str, page: Path) -> None:
    """Put a text there; a page without the comments stays as it is."""
    if read_block(name, page) is None:
        return
    begin, end = _markers(name)
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
